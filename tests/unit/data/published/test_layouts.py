import numpy as np
import pytest
import torch
from reference.published_sets import WRITERS

from lomt.data import (
    IMAGE,
    LAYOUTS,
    Augmentation,
    BatchLoader,
    CachedDataset,
    Dataset,
    check_dataset,
    identify,
    open_dataset,
    open_published,
    splits_of,
)
from lomt.data.published.layouts import FOLDER
from lomt.errors import DataError, UnknownNameError
from lomt.recipe.data_settings import DataSettings


def test_every_layout_has_a_writer_and_a_kind_in_recipes():
    kinds = set(DataSettings.model_fields["kind"].annotation.__args__)
    assert set(WRITERS) == set(LAYOUTS) == kinds - {"folder", "images", "rooms", "factory"}


def test_a_layout_is_recognised_and_by_no_other(layout, written):
    assert identify(written) == layout
    assert [name for name, other in LAYOUTS.items() if other.recognise(written)] == [layout]


def test_every_sample_of_every_split_and_target_is_whole(layout, written):
    names = list(open_published(layout, written).targets)
    found = check_dataset(written, targets=names)
    assert found.layout == layout
    assert found.damaged == 0
    assert set(found.splits) >= {"train", "test"}
    for split in found.splits.values():
        assert set(split.statistics) == set(names)


def test_batches_are_those_of_any_dataset(layout, written):
    dataset = open_dataset(layout, written, "train", size=(12, 16))
    assert isinstance(dataset, Dataset)
    loader = BatchLoader(dataset, 2, shuffle=True, augmentation=Augmentation(flip=1.0))
    batch = next(iter(loader.epoch(0)))
    assert batch[IMAGE].shape == (2, 3, 12, 16)
    assert batch[IMAGE].dtype == torch.float32
    for name, spec in dataset.targets.items():
        assert len(batch[name]) == 2
        if spec.is_dense:
            assert batch[name].shape[-2:] == (12, 16)


def test_the_cache_in_memory_keeps_the_values(layout, written):
    dataset = open_dataset(layout, written, "test", size=(12, 16))
    cached = CachedDataset(dataset).fill()
    for index in range(len(dataset)):
        for name, value in dataset.sample(index).items():
            np.testing.assert_array_equal(cached.sample(index)[name], value)


def test_worker_processes_read_the_same(layout, written):
    dataset = open_dataset(layout, written, "train", size=(12, 16))
    dataset.sample(0)  # what is open here must not be read there
    own, theirs = (BatchLoader(dataset, 2, shuffle=False, workers=n).epoch(0) for n in (0, 1))
    for one, other in zip(own, theirs, strict=True):
        for name in one:
            torch.testing.assert_close(one[name], other[name], equal_nan=True)


def test_splits_share_no_sample_and_hold_out_is_that_of_folders(layout, written):
    collection = open_published(layout, written)
    rows = np.concatenate([collection.rows(split) for split in splits_of(layout, written)])
    assert len(set(rows.tolist())) == len(rows)
    if "validation" not in splits_of(layout, written):
        train = collection.rows("train", 0.4, seed=3)
        held = collection.rows("validation", 0.4, seed=3)
        assert sorted([*train, *held]) == collection.rows("train").tolist()
        with pytest.raises(DataError, match="Give `validation_fraction` above 0"):
            collection.rows("validation")


def test_the_fingerprint_is_that_of_the_samples(layout, written):
    before = open_published(layout, written).fingerprint
    assert open_published(layout, written).fingerprint == before
    assert len(before) == 64


def test_unknown_target_and_index(layout, written):
    with pytest.raises(UnknownNameError, match="Unknown target of dataset"):
        open_dataset(layout, written, "train", size=(12, 16), targets=["dept"])
    dataset = open_dataset(layout, written, "train", size=(12, 16))
    with pytest.raises(IndexError, match="Expected `index` to be from 0"):
        dataset.sample(len(dataset))


def test_nothing_and_nothing_known(tmp_path):
    with pytest.raises(DataError, match="Expected a dataset at .*none, but there is nothing"):
        identify(tmp_path / "none")
    with pytest.raises(
        DataError, match=r"known by dataset.yaml \(folder\); nyu_depth_v2_labeled.mat .*Unpack"
    ):
        identify(tmp_path)
    (tmp_path / "dataset.yaml").touch()
    assert identify(tmp_path) == FOLDER


def test_wrong_layout(tmp_path):
    with pytest.raises(DataError, match="to have layout mtfl, known by training.txt and testing.txt, but"):
        open_published("mtfl", tmp_path)
    with pytest.raises(UnknownNameError, match="Unknown layout `mtlf`, did you mean `mtfl`"):
        open_published("mtlf", tmp_path)
