import numpy as np
import pytest
from reference.published_sets import save, write_mtan

from lomt.data import IMAGE, open_dataset, open_published
from lomt.errors import DataError


def test_every_value(tmp_path):
    truth = write_mtan(tmp_path, train=11)  # 10.npy follows 9.npy
    for split, folder, count in (("train", "train", 11), ("test", "val", 2)):
        dataset = open_dataset("nyuv2_mtan", tmp_path, split, size=None)
        assert len(dataset) == count
        for index in range(count):
            sample, wanted = dataset.sample(index), truth[folder, index]
            np.testing.assert_allclose(sample[IMAGE] / 255, wanted["image"], atol=1e-6)
            np.testing.assert_array_equal(sample["segmentation"], wanted["label"])
            np.testing.assert_allclose(sample["depth"][0], wanted["depth"][..., 0], rtol=1e-6)
            np.testing.assert_allclose(sample["normals"].transpose(1, 2, 0), wanted["normal"], atol=1e-3)
            assert set(np.unique(sample["edges"])) <= {-1, 0, 1}


def test_normals_are_derived_where_there_are_none(tmp_path):
    write_mtan(tmp_path, normals=False)
    normals = open_dataset("nyuv2_mtan", tmp_path, "train", size=None, targets=["normals"]).sample(0)[
        "normals"
    ]
    assert normals.shape == (3, 24, 32)
    assert np.isfinite(normals.astype(float)).all()


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        (
            "label",
            np.full((24, 32), 0.5),
            "`segmentation`.*: Expected whole numbers as labels, but got fractions",
        ),
        ("label", np.full((24, 32), 13.0), "Expected labels from 0 to 12 or -1"),
        ("image", np.full((24, 32, 3), 2.0), "`image`.*: Expected values from 0 to 1, but got 2 to 2"),
        ("image", np.zeros((24, 32, 3), np.uint8), "Expected floats of shape"),
        ("depth", np.zeros((24, 90, 1)), "Expected the same ratio of height to width"),
        ("depth", np.array(["a"]), "Expected numbers, but got dtype <U1"),
    ],
    ids=["fraction", "beyond", "range", "dtype", "size", "text"],
)
def test_damage_names_the_file(tmp_path, messages, name, array, message):
    import re

    write_mtan(tmp_path)
    save(tmp_path / "train" / name / "1.npy", array)
    found = messages("nyuv2_mtan", tmp_path, targets=["segmentation", "depth"])
    assert len(found) == 1
    assert f"train/{name}/1.npy" in found[0]
    assert re.search(message, found[0])


def test_missing_and_truncated_files(tmp_path, messages):
    write_mtan(tmp_path)
    (tmp_path / "train" / "depth" / "0.npy").unlink()
    path = tmp_path / "train" / "normal" / "2.npy"
    path.write_bytes(path.read_bytes()[:200])
    first, second = messages("nyuv2_mtan", tmp_path)
    assert "depth/0.npy (sample train/image/0.npy, `depth`): Expected this file, but there is none." in first
    assert "normal/2.npy" in second and "Cannot be read" in second


def test_no_images(tmp_path):
    for split in ("train", "val"):
        for name in ("image", "label"):
            (tmp_path / split / name).mkdir(parents=True)
    with pytest.raises(DataError, match="Expected images in .*train/image, but there are none"):
        open_published("nyuv2_mtan", tmp_path)
