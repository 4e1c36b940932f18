import numpy as np
import pytest
from reference.published_sets import write_mtan

from lomt.data import open_cached, open_dataset, splits_of, write_map
from lomt.errors import DataError


def test_splits_of_a_folder(tiny_folder, edit):
    assert splits_of("folder", tiny_folder) == ("train", "test")
    edit("dataset.yaml", "splits: {train: train, test: test}\n", "")
    assert splits_of("folder", tiny_folder) == ("train",)


@pytest.mark.parametrize("layout", ["folder", "nyuv2_mtan"])
def test_held_out_of_the_cache_as_of_the_files(layout, tiny_folder, tmp_path):
    root = tiny_folder if layout == "folder" else tmp_path / "mtan"
    if layout == "nyuv2_mtan":
        write_mtan(root, train=5)
    for split in splits_of(layout, root):
        write_map(open_dataset(layout, root, split, size=(6, 8)), tmp_path / "cache" / split)
    for split in ("train", "validation", "test"):
        options = {"size": (6, 8), "targets": ["depth"], "validation_fraction": 0.3, "seed": 2}
        files = open_dataset(layout, root, split, **options)
        cached = open_cached(tmp_path / "cache", layout, root, split, **options)
        assert (len(files), files.fingerprint) == (len(cached), cached.fingerprint)
        for index in range(len(files)):
            np.testing.assert_array_equal(cached.sample(index)["depth"], files.sample(index)["depth"])


def test_a_cache_that_is_not_there(tiny_folder, tmp_path):
    with pytest.raises(DataError, match="Write one with `lomt data cache`"):
        open_cached(tmp_path / "none", "folder", tiny_folder, "train", size=(6, 8))
    write_map(open_dataset("folder", tiny_folder, "train", size=(6, 8)), tmp_path / "cache" / "train")
    with pytest.raises(ValueError, match="Expected `validation_fraction`"):
        open_cached(tmp_path / "cache", "folder", tiny_folder, "train", size=(6, 8), validation_fraction=1.0)
