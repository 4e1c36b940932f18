import numpy as np
import pytest

from lomt.data import check_dataset, open_folder
from lomt.data.sample import TargetSpec
from lomt.data.statistics import STATISTICS


def test_shares_are_those_of_the_samples(tiny_folder):
    found = check_dataset(tiny_folder).to_dict()
    assert (found["layout"], found["name"]) == ("folder", "tiny")
    train = found["splits"]["train"]
    dataset = open_folder(tiny_folder, "train", size=None)
    samples = [dataset.sample(i) for i in range(4)]
    parts = np.stack([sample["parts"] for sample in samples])
    depth = np.stack([sample["depth"] for sample in samples]).astype(float)
    assert train["samples"] == 4 and train["damaged"] == [] and train["sizes"] == {"12x16": 4}
    shares = train["targets"]["parts"]
    assert shares["unlabelled"] == (parts == -1).mean()
    for label, name in enumerate("abc"):
        assert np.isclose(shares["classes"][name]["share"], (parts == label).sum() / (parts >= 0).sum())
    (own,) = train["targets"]["depth"]["channels"]
    valid = depth[depth > 0]
    assert np.allclose([own["least"], own["mean"], own["most"]], [valid.min(), valid.mean(), valid.max()])


def test_damaged_samples_are_listed_and_the_others_counted(tiny_folder):
    (tiny_folder / "parts" / "0.png").write_bytes(b"no image")
    check = check_dataset(tiny_folder, targets=["parts", "scene"])
    assert check.damaged == 1
    train = check.splits["train"]
    assert "parts/0.png (samples.csv line 2, column `parts`)" in train.damages[0].message
    assert train.sizes == {"12x16": 3}


def test_statistics_on_halves_are_those_of_the_whole():
    rng = np.random.default_rng(0)
    for kind, options in (
        ("segmentation", {"classes": ("a", "b")}),
        ("edges", {}),
        ("normals", {}),
        ("keypoints", {}),
    ):
        spec = TargetSpec("t", kind, **options)
        shape = (8, 6) if kind == "segmentation" else (spec.out_channels, 8, 6)
        values = rng.integers(-1, 2, shape).astype(
            np.int8 if kind in ("segmentation", "edges") else np.float16
        )
        whole, halves = STATISTICS[kind](spec), STATISTICS[kind](spec)
        whole.add(values)
        for part in (values[..., :4, :], values[..., 4:, :]):
            halves.add(part)
        one, other = whole.result(), halves.result()
        for results in (one, other):
            for figures in results.get("classes", {}).values():
                figures.pop("samples", None)
        assert one == other


def test_what_never_occurs_is_noted():
    spec = TargetSpec("t", "classification", classes=("a", "b", "c"))
    own = STATISTICS["classification"](spec)
    own.add(np.array(1, np.int32))
    assert own.notes == ["2 classes never occur: a, c"]
    flags = STATISTICS["multilabel"](TargetSpec("f", "multilabel", classes=("x", "y")))
    for values in ([1, 0], [1, 1]):
        flags.add(np.array(values, np.int8))
    assert flags.notes == ["1 labels never change: x"]
    depth = STATISTICS["depth"](TargetSpec("d", "depth"))
    depth.add(np.zeros((1, 2, 2), np.float32))
    assert depth.notes == ["nothing has a label"]
    assert depth.result() == {"unlabelled": 1.0, "channels": [None]}


@pytest.mark.slow
def test_the_measured_data_are_whole(nyuv2):
    found = check_dataset(nyuv2)
    assert {split: own.samples for split, own in found.splits.items()} == {"train": 795, "test": 654}
    assert found.damaged == 0
