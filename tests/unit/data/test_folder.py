import pickle

import numpy as np
import pytest

from lomt.data import BatchLoader, CachedDataset, Dataset, collate, open_folder
from lomt.errors import DataError, UnknownNameError

SIZE = (6, 8)


def test_is_a_dataset(tiny_folder):
    dataset = open_folder(tiny_folder, "train", size=SIZE)
    assert isinstance(dataset, Dataset)
    assert dataset.name == "tiny"
    assert len(dataset) == 4
    assert list(dataset.targets) == [
        "parts",
        "depth",
        "normals",
        "edges",
        "heat",
        "scene",
        "labels",
        "flags",
        "pose",
    ]
    assert len(pickle.loads(pickle.dumps(dataset))) == 4


def test_sample_has_every_target(tiny_folder):
    sample = open_folder(tiny_folder, "train", size=SIZE).sample(1)
    shapes = {name: array.shape for name, array in sample.items()}
    assert shapes == {
        "image": (6, 8, 3),
        "parts": (6, 8),
        "depth": (1, 6, 8),
        "normals": (3, 6, 8),
        "edges": (1, 6, 8),
        "heat": (2, 6, 8),
        "scene": (),
        "labels": (3,),
        "flags": (2,),
        "pose": (2,),
    }
    assert sample["scene"] == 1  # row 1: office, no labels, no `is_far`, no pitch
    assert sample["labels"].tolist() == [0, 0, 0]
    assert sample["flags"].tolist() == [0, -1]
    np.testing.assert_array_equal(sample["pose"], np.array([1.5, np.nan], np.float32))


def test_splits_take_their_rows(tiny_folder):
    whole = [open_folder(tiny_folder, split, size=SIZE) for split in ("train", "test")]
    assert [dataset.table.lines.tolist() for dataset in whole] == [[2, 3, 5, 6], [4, 7]]
    halves = [
        open_folder(tiny_folder, split, size=SIZE, validation_fraction=0.5).table.lines.tolist()
        for split in ("train", "validation")
    ]
    assert sorted(halves[0] + halves[1]) == [2, 3, 5, 6]
    assert len(halves[1]) == 2


def test_chosen_targets_in_order(tiny_folder, edit):
    edit("samples.csv", "edges/0.png", "edges/gone.png")  # of a target nobody asks for
    dataset = open_folder(tiny_folder, "train", size=SIZE, targets=["depth", "parts"])
    assert list(dataset.sample(0)) == ["image", "depth", "parts"]
    with pytest.raises(UnknownNameError, match="Unknown target of dataset tiny `dept`, did you mean `depth`"):
        open_folder(tiny_folder, "train", size=SIZE, targets=["dept"])


def test_fingerprint_changes_with_the_table_and_the_description(tiny_folder, edit):
    prints = [open_folder(tiny_folder, "train", size=SIZE).fingerprint]
    assert open_folder(tiny_folder, "test", size=SIZE).fingerprint == prints[0]
    edit("samples.csv", "1.5", "1.6")
    prints.append(open_folder(tiny_folder, "train", size=SIZE).fingerprint)
    edit("dataset.yaml", "0.001", "0.002")
    prints.append(open_folder(tiny_folder, "train", size=SIZE).fingerprint)
    assert len(set(prints)) == 3


def test_empty_cell_is_no_label(tiny_folder, edit):
    edit("samples.csv", "depth/0.png,normals/0.png", ",")
    sample = open_folder(tiny_folder, "train", size=SIZE).sample(0)
    assert not sample["depth"].any()
    assert not sample["normals"].any()


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (
            "samples.csv",
            "depth/3.png",
            "depth/9.png",
            "line 5, column `depth`: Expected a file `depth/9.png` in",
        ),
        ("samples.csv", "images/5.png", "../5.png", "line 7, column `image`: Expected a path inside"),
        (
            "samples.csv",
            "kitchen",
            "kitchn",
            "line 2, column `scene`: Unknown class `kitchn`, did you mean `kitchen`",
        ),
        (
            "samples.csv",
            "-2",
            "minus",
            "line 2, column `pitch`: Expected a finite number or an empty cell, but got `minus`",
        ),
        ("dataset.yaml", "column: depth", "column: dept", "Unknown column `dept`, did you mean `depth`"),
        ("dataset.yaml", "samples.csv", "sample.csv", "Expected a table of samples at"),
        (
            "dataset.yaml",
            "train: train",
            "train: training",
            "with `training` in column `split`, but got `test`, `train`",
        ),
        (
            "dataset.yaml",
            "image: {column: image}",
            "image: {column: imag}",
            "It is asked for by `image.column`",
        ),
    ],
)
def test_mistakes_are_found_at_opening(tiny_folder, edit, file, old, new, message):
    edit(file, old, new)
    with pytest.raises(DataError, match=message):
        open_folder(tiny_folder, "train", size=SIZE)


@pytest.mark.parametrize("name", ["images/1.png", "parts/1.png", "normals/1.png", "heat/1.npy"])
def test_damaged_file_is_named_with_line_and_column(tiny_folder, name):
    (tiny_folder / name).write_bytes((tiny_folder / name).read_bytes()[:60])
    column = {"images": "image"}.get(name.split("/")[0], name.split("/")[0])
    dataset = open_folder(tiny_folder, "train", size=SIZE)
    dataset.sample(0)
    with pytest.raises(
        DataError, match=rf"{name} \(samples.csv line 3, column `{column}`\): Cannot be read: "
    ):
        dataset.sample(1)


def test_not_an_image(tiny_folder):
    (tiny_folder / "images/1.png").write_text("no")
    with pytest.raises(
        DataError, match=r"images/1.png .*line 3, column `image`.*: Cannot be read: cannot identify"
    ):
        open_folder(tiny_folder, "train", size=SIZE).sample(1)


def test_no_pickle_in_npy(tiny_folder):
    np.save(tiny_folder / "heat/1.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(DataError, match=r"heat/1.npy .*Cannot be read: .*allow_pickle=False"):
        open_folder(tiny_folder, "train", size=SIZE).sample(1)


def test_wrong_values_are_named_with_line_and_column(tiny_folder, edit):
    edit("dataset.yaml", "classes: [a, b, c], ignore_index: 255", "classes: [a, b], ignore_index: 255")
    with pytest.raises(DataError, match=r"line 2, column `parts`\): Expected labels from 0 to 1 or 255"):
        open_folder(tiny_folder, "train", size=SIZE).sample(0)
    with pytest.raises(DataError, match=r"line 2, column `heat`\): Expected shape \(height, width, 3\)"):
        edit("dataset.yaml", "channels: 2", "channels: 3")
        open_folder(tiny_folder, "train", size=SIZE, targets=["heat"]).sample(0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": (0, 8)}, r"Expected `size` to be height and width of at least 1 pixel, but got \(0, 8\)"),
        ({"validation_fraction": 1.0}, "Expected `validation_fraction` to be from 0 to below 1, but got 1.0"),
        ({"seed": -1}, "Expected `seed` to be at least 0, but got -1"),
    ],
)
def test_refuses(tiny_folder, arguments, message):
    with pytest.raises(ValueError, match=message):
        open_folder(tiny_folder, "train", **{"size": SIZE, **arguments})


def test_index_out_of_range(tiny_folder):
    with pytest.raises(IndexError, match="Expected `index` to be from 0 to 3, but got 4"):
        open_folder(tiny_folder, "train", size=SIZE).sample(4)


def assert_in_range(batch):
    assert batch["image"].shape[1:] == (3, 96, 128)
    assert 0 <= batch["image"].min() < batch["image"].max() <= 1
    assert -1 <= batch["segmentation"].min() < batch["segmentation"].max() <= 12
    assert 0 <= batch["depth"].min() < batch["depth"].max() <= 10.1
    length = batch["normals"].norm(dim=1)
    assert ((length - 1).abs() < 2e-3).logical_or(length == 0).all()
    assert batch["normals"][:, 2].mean() < -0.2  # towards the camera
    assert set(batch["edges"].unique().tolist()) <= {-1, 0, 1}
    assert 0.01 < (batch["edges"] == 1).float().mean() < 0.12
    assert 0 <= batch["scene"].min() <= batch["scene"].max() <= 12


def test_nyuv2_some(nyuv2):
    for split, count in {"train": 795, "test": 654}.items():
        dataset = open_folder(nyuv2, split, size=(96, 128))
        assert len(dataset) == count
        assert_in_range(collate([dataset.sample(i) for i in range(0, count, 40)], dataset.targets))


@pytest.mark.slow
def test_nyuv2_whole(nyuv2):
    size_bytes = 0
    for split in ("train", "test"):
        dataset = CachedDataset(open_folder(nyuv2, split, size=(96, 128))).fill()
        size_bytes += dataset.size_bytes
        for batch in BatchLoader(dataset, 64, shuffle=True).epoch(0):
            assert_in_range(batch)
    assert size_bytes < 250e6
