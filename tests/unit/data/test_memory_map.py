import json
import pickle

import numpy as np
import pytest

from lomt.data import BatchLoader, Dataset, open_folder, open_map, write_map
from lomt.errors import DataError


@pytest.fixture
def dataset(tiny_folder):
    return open_folder(tiny_folder, "train", size=(6, 8))


@pytest.fixture
def mapped(dataset, tmp_path):
    return write_map(dataset, tmp_path / "cache" / "train")


def test_the_same_samples(dataset, mapped):
    assert isinstance(mapped, Dataset)
    assert (len(mapped), mapped.name, mapped.fingerprint) == (4, dataset.name, dataset.fingerprint)
    assert mapped.targets == dataset.targets
    for index in range(4):
        sample = mapped.sample(index)
        for name, value in dataset.sample(index).items():
            assert sample[name].dtype == value.dtype
            np.testing.assert_array_equal(sample[name], value)
    with pytest.raises(IndexError):
        mapped.sample(4)


def test_samples_cannot_be_written_to(mapped):
    with pytest.raises(ValueError, match="read-only"):
        mapped.sample(0)["image"][0] = 0


def test_the_same_batches_in_any_process(dataset, mapped):
    for workers in (0, 1):
        own = BatchLoader(dataset, 2, shuffle=True).epoch(1)
        theirs = BatchLoader(mapped, 2, shuffle=True, workers=workers).epoch(1)
        for one, other in zip(own, theirs, strict=True):
            for name in one:
                np.testing.assert_array_equal(one[name], other[name])


def test_other_processes_map_the_files(mapped):
    text = pickle.dumps(mapped)
    assert len(text) < 5000
    np.testing.assert_array_equal(pickle.loads(text).sample(2)["image"], mapped.sample(2)["image"])


def test_opened_again_and_compared(dataset, mapped, tiny_folder):
    assert len(open_map(mapped.folder, dataset)) == 4
    with pytest.raises(DataError, match="of size 12x16, but it is 6x8"):
        open_map(mapped.folder, open_folder(tiny_folder, "train", size=(12, 16)))
    with pytest.raises(DataError, match="to be of tiny as it is now, but it is of other data"):
        open_map(mapped.folder, open_folder(tiny_folder, "test", size=(6, 8)))
    few = open_folder(tiny_folder, "train", size=(6, 8), targets=["depth"])
    assert "scene" in open_map(mapped.folder, few).targets  # more than asked for is no harm


def test_a_changed_description_is_seen(mapped, tiny_folder, edit):
    edit("dataset.yaml", "scale: 0.001", "scale: 0.002")
    with pytest.raises(DataError, match="Remove the folder and write it again with `lomt data cache`"):
        open_map(mapped.folder, open_folder(tiny_folder, "train", size=(6, 8)))


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (
            lambda folder: (folder / "cache.json").unlink(),
            "Expected a cache with .*cache.json, but there is none",
        ),
        (lambda folder: (folder / "cache.json").write_text("{"), "to list a cache's files, but got"),
        (
            lambda folder: (folder / "depth.npy").unlink(),
            "depth.npy to be there, because cache.json lists it",
        ),
        (lambda folder: flip(folder / "depth.npy"), "depth.npy to have the checksum"),
        (lambda folder: edit_index(folder, schema=9), "Expected schema 1 in .*cache.json, but got 9"),
        (lambda folder: edit_index(folder, sha256={"../x.npy": ""}), "the files listed are not those"),
    ],
    ids=["none", "json", "file", "bit", "schema", "elsewhere"],
)
def test_damage(mapped, break_it, message):
    break_it(mapped.folder)
    with pytest.raises(DataError, match=message):
        open_map(mapped.folder)


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def edit_index(folder, **changes):
    path = folder / "cache.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_whole_or_not_at_all(tiny_folder, tmp_path):
    (tiny_folder / "images" / "3.png").write_bytes(b"")
    dataset = open_folder(tiny_folder, "train", size=(6, 8))
    with pytest.raises(DataError, match="1 of 4 are damaged"):
        write_map(dataset, tmp_path / "cache" / "train")
    assert list((tmp_path / "cache").iterdir()) == []


def test_nothing_is_overwritten(dataset, mapped):
    with pytest.raises(DataError, match="Expected no .*train yet"):
        write_map(dataset, mapped.folder)


def test_samples_of_several_sizes(tiny_folder, tmp_path):
    from PIL import Image

    Image.new("RGB", (32, 24)).save(tiny_folder / "images" / "1.png")
    dataset = open_folder(tiny_folder, "train", size=None, targets=["scene"])
    with pytest.raises(DataError, match="Expected `image` of all samples to be uint8"):
        write_map(dataset, tmp_path / "cache")
