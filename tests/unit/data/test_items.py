import numpy as np
import pytest
from PIL import Image

from lomt.data import Answer, BatchLoader, Dataset, TargetSpec, adapt
from lomt.data.columns import DepthColumn, SegmentationColumn
from lomt.errors import DataError

SCENE = Answer(TargetSpec("scene", "classification", classes=("a", "b")))
FLAGS = Answer(TargetSpec("flags", "multilabel", classes=("x", "y")))
POSE = Answer(TargetSpec("pose", "regression", channels=2))
PARTS = SegmentationColumn(kind="segmentation", column="", classes=["p", "q"], ignore_index=255)


def picture(value):
    return Image.new("RGB", (8, 6), (value, 0, 0))


def test_tuples_as_torchvision_gives_them():
    from torchvision.datasets import FakeData

    items = FakeData(3, (3, 6, 8), num_classes=2)
    dataset = adapt(items, name="fake", size=(3, 4), image=0, targets={"scene": (1, SCENE)})
    assert isinstance(dataset, Dataset)
    batch = next(iter(BatchLoader(dataset, 3, shuffle=False).epoch(0)))
    assert batch["image"].shape == (3, 3, 3, 4)
    assert batch["scene"].tolist() == [int(items[i][1]) for i in range(3)]


def test_mappings_with_every_kind_as_hugging_face_gives_them():
    depth = np.arange(48, dtype=np.float32).reshape(6, 8)
    labels = np.zeros((6, 8), np.uint8)
    labels[0, 0] = 255
    row = {
        "img": picture(7),
        "mask": Image.fromarray(labels),
        "depth": depth,
        "s": 1,
        "f": [1, -1],
        "p": [0.5, 2],
    }
    targets = {"parts": ("mask", PARTS), "depth": ("depth", DepthColumn(kind="depth", column=""))}
    targets |= {"scene": ("s", SCENE), "flags": ("f", FLAGS), "pose": ("p", POSE)}
    dataset = adapt([row], name="rows", size=(6, 8), image="img", targets=targets)
    sample = dataset.sample(0)
    assert sample["image"][0, 0].tolist() == [7, 0, 0]
    np.testing.assert_array_equal(sample["depth"][0], depth)
    assert (sample["parts"][0, 0], sample["parts"][1, 1]) == (-1, 0)
    assert (sample["scene"].item(), sample["flags"].tolist(), sample["pose"].tolist()) == (
        1,
        [1, -1],
        [0.5, 2],
    )
    assert list(dataset.targets) == list(targets)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ((picture(0), 2), r"things item 0, key `1` \(`scene`\): Expected a class index from 0 to 1"),
        ((picture(0),), "Expected an item of more than 1 parts, but got 1"),
        (("a.png", 1), "Expected an image, but got the path a.png. Let the dataset decode its images"),
        ((np.zeros((3, 4)), 1), "Expected an image or uint8 of shape"),
        ({"image": 1}, "Expected a tuple, because `0` is looked up in it, but got dict"),
    ],
    ids=["class", "short", "path", "array", "mapping"],
)
def test_wrong_items_are_named(item, message):
    dataset = adapt([item], name="things", size=(3, 4), image=0, targets={"scene": (1, SCENE)})
    with pytest.raises(DataError, match=message):
        dataset.sample(0)


def test_a_missing_key_is_named_with_its_neighbours():
    dataset = adapt(
        [{"image": picture(0), "label": 1}],
        name="t",
        size=(3, 4),
        image="imag",
        targets={"scene": ("label", SCENE)},
    )
    with pytest.raises(DataError, match="Unknown key `imag`, did you mean `image`"):
        dataset.sample(0)


def test_arguments():
    with pytest.raises(ValueError, match="Expected `targets` not to be empty"):
        adapt([], name="t", size=(3, 4), image=0, targets={})
    with pytest.raises(ValueError, match="Expected `size`"):
        adapt([], name="t", size=(0, 4), image=0, targets={"scene": (1, SCENE)})


def test_the_fingerprint_follows_the_version():
    one, other = (
        adapt([], name="t", size=(3, 4), image=0, targets={"scene": (1, SCENE)}, version=v)
        for v in ("1", "2")
    )
    assert one.fingerprint != other.fingerprint


def test_a_hugging_face_dataset():
    datasets = pytest.importorskip("datasets", reason="Hugging Face datasets are an extra")
    features = datasets.Features({"img": datasets.Image(), "scene": datasets.ClassLabel(names=["a", "b"])})
    items = datasets.Dataset.from_dict({"img": [picture(9), picture(3)], "scene": [1, 0]}, features=features)
    answer = Answer(TargetSpec("scene", "classification", classes=tuple(items.features["scene"].names)))
    dataset = adapt(items, name="hf", size=(6, 8), image="img", targets={"scene": ("scene", answer)})
    assert [dataset.sample(i)["scene"].item() for i in range(2)] == [1, 0]
    assert dataset.sample(0)["image"][0, 0].tolist() == [9, 0, 0]
