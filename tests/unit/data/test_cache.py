import threading

import numpy as np
import pytest

from lomt.data import CachedDataset, TargetSpec, open_folder
from lomt.errors import DataError

FLAT = np.zeros((1, 2, 3), np.float32)


class Counting:
    """Ten samples of a depth map; counts how often each is decoded."""

    name = "counting"
    fingerprint = "0"

    def __init__(self, depth, damaged=None):
        self.targets = {"depth": TargetSpec("depth", "depth")}
        self.depth = depth
        self.damaged = damaged
        self.decoded = []

    def __len__(self):
        return 10

    def sample(self, index):
        self.decoded.append(index)
        if index == self.damaged:
            raise DataError(f"sample {index} is damaged")
        return {"image": np.full((2, 3, 3), index, np.uint8), "depth": self.depth}


def assert_same_samples(first, second):
    for index in range(len(first)):
        a, b = first.sample(index), second.sample(index)
        assert list(a) == list(b)
        for name in a:
            assert a[name].dtype == b[name].dtype
            np.testing.assert_array_equal(a[name], b[name])


def test_values_are_the_datasets(tiny_folder):
    dataset = open_folder(tiny_folder, "train", size=(6, 8))
    cached = CachedDataset(dataset)
    assert_same_samples(cached, dataset)
    assert_same_samples(cached, dataset)  # now from memory
    assert (cached.name, cached.fingerprint, cached.targets) == (
        dataset.name,
        dataset.fingerprint,
        dataset.targets,
    )


@pytest.mark.parametrize(
    ("depth", "bytes_per_value"),
    [
        (np.arange(6).reshape(1, 2, 3).astype(np.float32) * np.float32(0.001), 2),
        (np.arange(6).reshape(1, 2, 3).astype(np.float32) * np.float32(0.0003), 4),
        (np.full((1, 2, 3), 70.0, np.float32), 4),
        (np.full((1, 2, 3), 70.0, np.float16), 2),
    ],
    ids=["millimetres", "finer", "farther", "float16"],
)
def test_depth_is_packed_only_without_loss(depth, bytes_per_value):
    cached = CachedDataset(Counting(depth))
    for _ in range(2):
        back = cached.sample(3)["depth"]
        assert back.dtype == depth.dtype
        np.testing.assert_array_equal(back, depth)
    assert cached.size_bytes == 2 * 3 * 3 + 6 * bytes_per_value


def test_decodes_once_on_first_use():
    dataset = Counting(FLAT)
    cached = CachedDataset(dataset)
    assert cached.size_bytes == 0
    for index in (4, 1, 4, 1, 4):
        cached.sample(index)
    assert dataset.decoded == [4, 1]


def test_fill_decodes_the_rest(caplog):
    dataset = Counting(FLAT)
    cached = CachedDataset(dataset)
    cached.sample(4)
    with caplog.at_level("INFO", "lomt"):
        assert cached.fill(threads=3) is cached
    assert sorted(dataset.decoded) == list(range(10))
    assert "counting: 10 samples" in caplog.text
    cached.sample(9)
    assert len(dataset.decoded) == 10


def test_fill_passes_errors_on_and_ends_its_threads():
    cached = CachedDataset(Counting(FLAT, damaged=7))
    before = threading.active_count()
    with pytest.raises(DataError, match="sample 7 is damaged"):
        cached.fill()
    assert threading.active_count() == before


def test_damaged_sample_is_not_kept():
    dataset = Counting(FLAT, damaged=7)
    cached = CachedDataset(dataset)
    for _ in range(2):
        with pytest.raises(DataError, match="sample 7 is damaged"):
            cached.sample(7)
    assert dataset.decoded == [7, 7]


def test_index_out_of_range():
    with pytest.raises(IndexError, match="Expected `index` to be from 0 to 9, but got -1"):
        CachedDataset(Counting(FLAT)).sample(-1)
