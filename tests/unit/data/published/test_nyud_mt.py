import numpy as np
import pytest
from reference.published_sets import write_nyud_mt

from lomt.data import IMAGE, open_dataset, open_published, splits_of
from lomt.errors import DataError


def test_every_value(tmp_path):
    truth = write_nyud_mt(tmp_path)
    names = list(open_published("nyud_mt", tmp_path).targets)
    for split, rows in (("train", range(3)), ("test", range(3, 5))):
        dataset = open_dataset("nyud_mt", tmp_path, split, size=None, targets=names)
        for index, row in enumerate(rows):
            sample, wanted = dataset.sample(index), truth[row]
            assert np.abs(sample[IMAGE].astype(int) - wanted["images"]).mean() < 4  # JPEG
            labels = wanted["segmentation"].astype(int)
            np.testing.assert_array_equal(sample["segmentation"], labels - 1)
            np.testing.assert_array_equal(sample["segmentation37"], np.where(labels > 37, 0, labels) - 1)
            np.testing.assert_array_equal(sample["depth"][0], wanted["depth"])
            np.testing.assert_array_equal(sample["edges"][0], wanted["edge"])
            np.testing.assert_allclose(sample["normals"].transpose(1, 2, 0), wanted["normals"], atol=1e-3)


def test_normals_and_edges_are_derived_where_there_are_none(tmp_path):
    write_nyud_mt(tmp_path, derived=True)
    sample = open_dataset("nyud_mt", tmp_path, "train", size=None).sample(0)
    assert (np.linalg.norm(sample["normals"].astype(float), axis=0) < 1.001).all()
    assert sample["edges"].max() == 1


def test_a_test_list_makes_val_the_validation_split(tmp_path):
    write_nyud_mt(tmp_path)
    (tmp_path / "gt_sets" / "test.txt").write_text("0001\n")
    assert splits_of("nyud_mt", tmp_path) == ("train", "validation", "test")
    assert open_dataset("nyud_mt", tmp_path, "validation", size=(6, 8)).place(0) == "sample 0004"


def test_missing_split_file(tmp_path):
    write_nyud_mt(tmp_path)
    (tmp_path / "gt_sets" / "val.txt").unlink()
    with pytest.raises(DataError, match=r"gt_sets/val.txt, which lists the samples of split `test`, but"):
        open_published("nyud_mt", tmp_path)


def test_list_with_paths(tmp_path):
    write_nyud_mt(tmp_path)
    (tmp_path / "gt_sets" / "val.txt").write_text("0004\n../0005\n")
    with pytest.raises(DataError, match=r"val.txt, but got `../0005` in line 2"):
        open_published("nyud_mt", tmp_path)


def test_list_not_in_utf8(tmp_path):
    write_nyud_mt(tmp_path)
    (tmp_path / "gt_sets" / "val.txt").write_bytes(b"\xff\xfe0")
    with pytest.raises(DataError, match="val.txt to be text in UTF-8"):
        open_published("nyud_mt", tmp_path)


def test_truncated_png_and_listed_file_that_is_missing(tmp_path, messages):
    write_nyud_mt(tmp_path)
    path = tmp_path / "segmentation" / "0002.png"
    path.write_bytes(path.read_bytes()[:60])
    (tmp_path / "images" / "0003.jpg").unlink()
    first, second = messages("nyud_mt", tmp_path)
    assert "segmentation/0002.png (sample 0002, `segmentation`): Cannot be read" in first
    assert "images/0003.jpg (sample 0003, `image`): Expected this file, but there is none." in second


def test_link_out_of_the_folder(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    write_nyud_mt(root)
    (root / "depth" / "0001.npy").rename(tmp_path / "outside.npy")
    (root / "depth" / "0001.npy").symlink_to(tmp_path / "outside.npy")
    with pytest.raises(
        DataError, match=r"depth/0001.npy to stay inside .*root, but it leads to .*outside.npy"
    ):
        open_published("nyud_mt", root)
