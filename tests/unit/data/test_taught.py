"""Targets that a network answers."""

import numpy as np
import pytest
import torch

from lomt.data import IMAGE, Augmentation, BatchLoader, CachedDataset, RoomsDataset, TargetSpec, teach
from lomt.errors import DataError

SPECS = {
    "light": TargetSpec("light", "regression"),
    "red": TargetSpec("red", "segmentation", ("no", "yes")),
    "depth": TargetSpec("depth", "depth"),
}


def answer(images):
    """What can be told from an image alone."""
    assert images.dtype == torch.float32
    return {
        "light": images.mean((1, 2, 3))[:, None].numpy(),
        "red": (images[:, 0] > images[:, 1]).numpy().astype(np.int8),
        "depth": images[:, :1].numpy(),
    }


@pytest.fixture(scope="module")
def rooms():
    return CachedDataset(RoomsDataset(7, size=(16, 24), targets=["depth"]))


@pytest.mark.parametrize("batch_size", [1, 3, 7, 16])
def test_every_sample_has_the_answer_to_its_own_image(rooms, batch_size):
    taught = teach(rooms, answer, SPECS, fingerprint="f", batch_size=batch_size)
    assert (len(taught), taught.name, taught.fingerprint) == (7, "rooms", "f")
    for index in range(7):
        sample = taught.sample(index)
        assert list(sample) == [IMAGE, *SPECS]
        np.testing.assert_array_equal(sample[IMAGE], rooms.sample(index)[IMAGE])
        image = torch.from_numpy(sample[IMAGE].transpose(2, 0, 1) * np.float32(1 / 255))[None]
        for name, expected in answer(image).items():
            assert sample[name].dtype == expected.dtype
            np.testing.assert_allclose(sample[name], expected[0], rtol=1e-6)


def test_own_targets_are_kept_under_the_tasks_name(rooms):
    specs = {"far": TargetSpec("far", "depth"), "red": SPECS["red"]}
    taught = teach(rooms, answer, specs, own={"far": "depth"}, fingerprint="f")
    assert list(taught.answers) == ["red"]
    for index in (0, 6):
        np.testing.assert_array_equal(taught.sample(index)["far"], rooms.sample(index)["depth"])


def test_nothing_is_asked_where_all_targets_are_the_datasets_own(rooms):
    def never(images):
        raise AssertionError

    taught = teach(
        rooms, never, {"depth": SPECS["depth"]}, own={"depth": "depth"}, fingerprint="f", progress=Told()
    )
    assert taught.sample(0).keys() == {IMAGE, "depth"}
    assert Told.heard == []


class Told:
    heard: list = []

    def __init__(self):
        type(self).heard = []

    def start(self, description, total, done=0):
        self.heard.append((description, total))

    def advance(self, count=1, **figures):
        self.heard.append(count)

    def finish(self, note=""):
        self.heard.append("done")


def test_it_says_how_far_it_is(rooms):
    teach(rooms, answer, SPECS, fingerprint="f", batch_size=3, progress=Told(), description="asking")
    assert Told.heard == [("asking", 3), 1, 1, 1, "done"]


def test_batches_and_augmentation_are_those_of_any_dataset(rooms):
    taught = teach(rooms, answer, SPECS, fingerprint="f")
    loader = BatchLoader(taught, 4, shuffle=True, seed=1, augmentation=Augmentation(flip=1.0))
    for batch in loader.epoch(0):
        assert batch["red"].dtype == torch.int64
        found = answer(batch[IMAGE])
        # a mirrored image has mirrored answers where they are pixel by pixel
        torch.testing.assert_close(batch["depth"], torch.from_numpy(found["depth"]))
        assert (batch["red"].numpy() == found["red"]).all()
    own, theirs = (BatchLoader(taught, 4, shuffle=False, workers=n).epoch(0) for n in (0, 1))
    for one, other in zip(own, theirs, strict=True):
        for name in one:
            torch.testing.assert_close(one[name], other[name])


def test_the_mean_size_is_that_of_all_answers(rooms):
    taught = teach(rooms, answer, SPECS, fingerprint="f")
    assert taught.mean_size("depth") == pytest.approx(float(np.abs(taught.answers["depth"]).mean()), rel=1e-5)


def test_what_the_network_complains_of_is_heard(rooms):
    def broken(images):
        raise DataError("Expected better.")

    with pytest.raises(DataError, match="Expected better"):
        teach(rooms, broken, SPECS, fingerprint="f")
