import numpy as np
import pytest
from PIL import Image
from reference.published_sets import write_cityscapes

from lomt.data import IMAGE, open_dataset, open_published
from lomt.data.published.cityscapes import CLASSES_7, CLASSES_19

# by stored label: class of the 19, category
NAMES = {7: ("road", "flat"), 9: (None, "flat"), 11: ("building", "construction"), 17: ("pole", "object")}
NAMES |= {21: ("vegetation", "nature"), 23: ("sky", "sky"), 25: ("rider", "human"), 29: (None, "vehicle")}
NAMES |= {33: ("bicycle", "vehicle"), 0: (None, None), 6: (None, None)}


@pytest.mark.parametrize("camera", [False, True])
def test_every_value(tmp_path, camera):
    truth = write_cityscapes(tmp_path, camera)
    product = 0.25 * 2000 if camera else 0.209313 * 2262.52
    for split, folder in (("train", "train"), ("test", "val")):
        dataset = open_dataset("cityscapes", tmp_path, split, size=None)
        stems = sorted(stem for own, stem in truth if own == folder)
        assert len(dataset) == len(stems)
        for index, stem in enumerate(stems):
            sample, wanted = dataset.sample(index), truth[folder, stem]
            np.testing.assert_array_equal(sample[IMAGE], wanted["leftImg8bit"])
            stored = wanted["disparity"].astype(float)
            depth = np.where(stored > 0, product * 256 / np.maximum(stored - 1, 1), 0)
            np.testing.assert_allclose(sample["depth"][0], depth, rtol=1e-5)
            for label, (fine, coarse) in NAMES.items():
                here = wanted["labelIds"] == label
                for name, classes, value in (
                    ("segmentation", CLASSES_19, fine),
                    ("segmentation7", CLASSES_7, coarse),
                ):
                    assert (sample[name][here] == (classes.index(value) if value else -1)).all()


def test_every_class_has_a_category():
    from lomt.data.published.cityscapes import _table_7, _table_19

    assert sorted(set(_table_19().tolist())) == [*range(19), 255]
    assert sorted(set(_table_7().tolist())) == [*range(7), 255]
    assert (_table_7()[_table_19() != 255] != 255).all()


def test_damage(tmp_path, messages):
    write_cityscapes(tmp_path, camera=True)
    stem = "train/ulm/ulm_00000{}_000019_"
    Image.new("L", (32, 24), 34).save(tmp_path / "gtFine" / f"{stem.format(0)}gtFine_labelIds.png")
    Image.new("L", (32, 24), 9).save(tmp_path / "disparity" / f"{stem.format(1)}disparity.png")
    (tmp_path / "camera" / f"{stem.format(2)}camera.json").write_text("{}")
    labels, disparity, camera = messages("cityscapes", tmp_path)
    assert "Expected labels from 0 to 33, but got 34 in 768 pixels" in labels
    assert "Expected 16-bit disparity, but got dtype uint8" in disparity
    assert "to be JSON with extrinsic.baseline and intrinsic.fx" in camera


def test_depth_is_no_target_without_disparity(tmp_path):
    import shutil

    write_cityscapes(tmp_path)
    shutil.rmtree(tmp_path / "disparity")
    assert list(open_published("cityscapes", tmp_path).targets) == ["segmentation", "segmentation7"]
