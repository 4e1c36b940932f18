import json

import numpy as np
import pytest
from PIL import Image
from reference.published_sets import write_celebamask

from lomt.data import open_dataset, open_published
from lomt.data.published.celebamask import PARTS
from lomt.errors import DataError

ATTRIBUTES = "CelebAMask-HQ-attribute-anno.txt"


def painted(masks):
    """Merge masks as the published script does: part by part, the later one on top."""
    labels = np.zeros((16, 16), int)
    for label, part in enumerate(PARTS, 1):
        for row, column in zip(*np.nonzero(masks.get(part, np.zeros((16, 16)))), strict=True):
            labels[row, column] = label
    return labels


def test_every_value(tmp_path):
    truth = write_celebamask(tmp_path)
    names = ["segmentation", "segmentation3", "attributes", "male", "smiling"]
    rows = {"train": [0, 1, 5], "validation": [2, 3], "test": [4]}  # by the numbers in CelebA
    for split, numbers in rows.items():
        dataset = open_dataset("celebamask", tmp_path, split, size=(16, 16), targets=names)
        assert len(dataset) == len(numbers)
        for index, number in enumerate(numbers):
            sample, labels = dataset.sample(index), painted(truth["masks"][number])
            np.testing.assert_array_equal(sample["segmentation"], labels)
            hair, earring = PARTS.index("hair") + 1, PARTS.index("ear_r") + 1
            np.testing.assert_array_equal(sample["segmentation3"] == 2, labels == hair)
            np.testing.assert_array_equal(sample["segmentation3"] == 1, ~np.isin(labels, (0, hair, earring)))
            np.testing.assert_array_equal(sample["attributes"], truth["attributes"][number] == 1)
            assert sample["male"].tolist() == [truth["attributes"][number][1] == 1]


def test_nineteen_classes_and_forty_attributes(tmp_path):
    write_celebamask(tmp_path)
    targets = open_published("celebamask", tmp_path).targets
    assert len(targets["segmentation"].classes) == 19
    assert len(targets["attributes"].classes) == 40
    assert targets["smiling"].classes == ("Smiling",)


def test_lists_in_the_folder_have_the_last_word(tmp_path):
    write_celebamask(tmp_path)
    lists = {"train": ["3.jpg", "1.jpg"], "val": ["0.jpg"], "test": ["2.jpg"]}
    (tmp_path / "celebA_datasplit.json").write_text(json.dumps(lists))
    assert open_dataset("celebamask", tmp_path, "train", size=(8, 8)).place(0) == "sample 3.jpg"
    (tmp_path / "celebA_datasplit.json").write_text(json.dumps({**lists, "val": ["77.jpg"]}))
    with pytest.raises(
        DataError, match="the lists train, val and test of images that are there, but not '77.jpg'"
    ):
        open_published("celebamask", tmp_path)
    (tmp_path / "celebA_datasplit.json").write_text("{")
    with pytest.raises(DataError, match="to be JSON with lists of file names"):
        open_published("celebamask", tmp_path)


def test_missing_split_file(tmp_path):
    write_celebamask(tmp_path)
    (tmp_path / "CelebA-HQ-to-CelebA-mapping.txt").unlink()
    with pytest.raises(DataError, match="mapping.txt, which says from which images of CelebA these come"):
        open_published("celebamask", tmp_path)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        (ATTRIBUTES, "3.jpg ", "3.jpg 1 ", "Expected 40 values 1 or -1 in line 6 of"),
        (ATTRIBUTES, "3.jpg ", "33.jpg ", "Expected a line for image 3.jpg in"),
        (ATTRIBUTES, "6\n", "six\n", "to begin with a count and a line of names"),
        (
            "CelebA-HQ-to-CelebA-mapping.txt",
            "2\t\t162771",
            "2\t\tx",
            "Expected `number number file` in line 4",
        ),
        ("CelebA-HQ-to-CelebA-mapping.txt", "2\t\t162771", "9\t\t9", "`number number file` in line 4"),
    ],
)
def test_damaged_lists_name_the_line(tmp_path, name, old, new, message):
    write_celebamask(tmp_path)
    text = (tmp_path / name).read_text()
    assert old in text
    (tmp_path / name).write_text(text.replace(old, new, 1))
    with pytest.raises(DataError, match=message):
        open_published("celebamask", tmp_path)


def test_damaged_masks(tmp_path, messages):
    write_celebamask(tmp_path)
    folder = tmp_path / "CelebAMask-HQ-mask-anno" / "0"
    for path in folder.glob("00000_*"):
        path.unlink()
    Image.new("L", (9, 9)).save(folder / "00001_hair.png")
    (folder / "00005_hair.png").write_bytes((folder / "00005_hair.png").read_bytes()[:50])
    none, sizes, truncated = messages("celebamask", tmp_path)
    assert "Expected a mask such as 00000_skin.png, but there is none" in none
    assert "Expected all parts to be of (16, 16), but 00001_hair.png is of (9, 9)" in sizes
    assert "Expected 00005_hair.png to be readable" in truncated
    assert "sample 5.jpg" in truncated
