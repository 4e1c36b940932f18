import numpy as np
import pytest

from lomt.data.published.nyuv2_classes import CLASSES_13, CLASSES_40, forty_to, label_table, official_test


def test_the_official_split_has_its_published_sizes():
    is_test = official_test()
    assert (len(is_test), int(is_test.sum())) == (1449, 654)


def test_the_official_split_is_that_of_the_measured_data(nyuv2):
    lines = (nyuv2 / "samples.csv").read_text().splitlines()[1:]
    assert official_test().tolist() == [line.split(",")[1] == "test" for line in lines]


def test_class_sizes():
    counts = np.bincount(label_table(40)[1:], minlength=41)
    assert counts[0] == 0
    assert (counts[1:38] == 1).all()
    assert counts[38:].tolist() == [68, 82, 707]
    assert (len(CLASSES_13), len(CLASSES_40)) == (13, 40)


@pytest.mark.parametrize(
    ("label", "forty", "thirteen"),
    [
        (0, None, None),
        (21, "wall", "wall"),
        (5, "chair", "chair"),
        (1, "otherprop", "objects"),
        (331, "person", "objects"),
        (88, "bookshelf", "furniture"),
    ],
)
def test_labels_by_name(label, forty, thirteen):
    for count, names, wanted in ((40, CLASSES_40, forty), (13, CLASSES_13, thirteen)):
        found = label_table(count)[label]
        assert (names[found - 1] if found else None) == wanted


def test_37_leaves_out_the_collections():
    assert forty_to(37).tolist() == [*range(38), 0, 0, 0]
