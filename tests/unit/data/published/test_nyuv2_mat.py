import shutil

import numpy as np
import pytest
from reference.published_sets import write_nyuv2_mat

from lomt.data import IMAGE, open_dataset, open_published
from lomt.data.label_edges import bridge_seams, label_edges
from lomt.data.plane_normals import plane_normals
from lomt.data.published.nyuv2_classes import label_table
from lomt.data.published.nyuv2_mat import CAMERA, FILE
from lomt.errors import DataError

h5py = pytest.importorskip("h5py", reason="NYU-v2's file needs h5py")


@pytest.fixture
def edit(tmp_path):
    """Write the file, change it, and open it."""

    def changed(change):
        write_nyuv2_mat(tmp_path)
        with h5py.File(tmp_path / FILE, "r+") as file:
            change(file)
        return open_published("nyuv2_mat", tmp_path)

    return changed


def test_every_value(tmp_path):
    truth = write_nyuv2_mat(tmp_path)
    names = list(open_published("nyuv2_mat", tmp_path).targets)
    for split, rows in (("train", range(4)), ("test", range(4, 6))):
        dataset = open_dataset("nyuv2_mat", tmp_path, split, size=None, targets=names)
        for index, row in enumerate(rows):
            sample = dataset.sample(index)
            labels = truth["labels"][row]
            np.testing.assert_array_equal(sample[IMAGE], truth["images"][row])
            np.testing.assert_array_equal(sample["depth"][0], truth["depths"][row])
            np.testing.assert_array_equal(sample["depth_raw"][0], truth["raw"][row])
            np.testing.assert_array_equal(sample["segmentation894"], labels.astype(int) - 1)
            for count in (13, 37, 40):
                wanted = label_table(count).astype(int)[labels] - 1
                np.testing.assert_array_equal(sample[f"segmentation{count}"], wanted)
            assert dataset.targets["scene"].classes[sample["scene"]] == truth["scenes"][row]
            wanted = label_edges(bridge_seams(labels, 0, 1), 0)
            np.testing.assert_array_equal(sample["edges"][0], wanted)
            normals = plane_normals(truth["depths"][row], CAMERA.scaled(labels.shape))
            np.testing.assert_allclose(sample["normals"], normals.transpose(2, 0, 1), atol=1e-3)


def test_the_file_itself_may_be_named(tmp_path):
    write_nyuv2_mat(tmp_path)
    assert len(open_dataset("nyuv2_mat", tmp_path / FILE, "train", size=(12, 16))) == 4


def test_a_split_is_needed_where_the_images_are_not_the_official_ones(tmp_path):
    write_nyuv2_mat(tmp_path, split=False)
    with pytest.raises(DataError, match=r"Expected a split at .*splits.mat, because .* has 6 images and not"):
        open_published("nyuv2_mat", tmp_path)


def test_damaged_and_foreign_splits(tmp_path):
    from scipy.io import savemat

    write_nyuv2_mat(tmp_path)
    cases = [
        ({"trainNdxs": [[1]]}, "Expected `trainNdxs` and `testNdxs` in .*, but there is no 'testNdxs'"),
        (
            {"trainNdxs": [[1]], "testNdxs": [[7]]},
            "Expected `testNdxs` of .* to be from 1 to 6, but got 7 to 7",
        ),
        ({"trainNdxs": [[1, 2]], "testNdxs": [[2]]}, "to have no image in common"),
    ]
    for content, message in cases:
        savemat(tmp_path / "splits.mat", content)
        with pytest.raises(DataError, match=message):
            open_published("nyuv2_mat", tmp_path)
    (tmp_path / "splits.mat").write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match="to be a MATLAB file with the split, but got"):
        open_published("nyuv2_mat", tmp_path)


def test_not_hdf5(tmp_path):
    (tmp_path / FILE).write_bytes(b"MATLAB 5.0 MAT-file")
    with pytest.raises(DataError, match="to be the HDF5 file of NYU-Depth v2, but it cannot be opened"):
        open_published("nyuv2_mat", tmp_path)


def test_truncated(tmp_path):
    write_nyuv2_mat(tmp_path)
    content = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="Download it again"):
        open_published("nyuv2_mat", tmp_path)


def replaced(name, values):
    def change(file):
        del file[name]
        file[name] = values

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.pop("depths"), "NYU-Depth v2 with depths, but it has #refs#, images, labels"),
        (replaced("labels", np.zeros((3, 32, 24))), "Expected `labels` of .* 3 dimensions and 6 images"),
        (replaced("images", np.zeros((6, 3, 32, 24))), "Expected `images` of .* to be uint8 of .*float64"),
    ],
    ids=["missing", "count", "dtype"],
)
def test_hdf5_of_another_kind(edit, change, message):
    with pytest.raises(DataError, match=message):
        edit(change)


@pytest.mark.parametrize("link", ["external", "soft"])
def test_links_out_of_the_file(edit, tmp_path, link):
    def change(file):
        shutil.copy(tmp_path / FILE, tmp_path / "other.h5")
        del file["depths"]
        other = h5py.ExternalLink(str(tmp_path / "other.h5"), "/depths")
        file["depths"] = other if link == "external" else h5py.SoftLink("/rawDepths")

    with pytest.raises(
        DataError, match="Expected `depths` to be in .* itself, but it leads to another place"
    ):
        edit(change)


def test_labels_beyond_the_list_name_file_array_and_image(edit, tmp_path, messages):
    def change(file):
        labels = file["labels"][:]
        labels[1, :2, 0] = 895
        del file["labels"]
        file["labels"] = labels

    edit(change)
    for target in ("segmentation13", "segmentation894"):
        (message,) = messages("nyuv2_mat", tmp_path, targets=[target])
        assert f"{FILE}, `labels` 2 (sample 0002, `{target}`): Expected labels from" in message
        assert "but got 895 in 2 pixels" in message


def test_without_h5py_the_extra_is_named(tmp_path, monkeypatch):
    import sys

    write_nyuv2_mat(tmp_path)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(DataError, match=r"Expected h5py to be installed.*pip install lomt\[nyuv2\]"):
        open_published("nyuv2_mat", tmp_path)


def test_other_processes_open_it_anew(tmp_path):
    import pickle

    write_nyuv2_mat(tmp_path)
    dataset = open_dataset("nyuv2_mat", tmp_path, "train", size=(12, 16))
    dataset.sample(0)
    copy = pickle.loads(pickle.dumps(dataset))
    np.testing.assert_array_equal(copy.sample(1)["depth"], dataset.sample(1)["depth"])
