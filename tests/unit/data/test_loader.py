import multiprocessing
import pickle
import threading
import time

import numpy as np
import pytest
import torch

from lomt.data import Augmentation, BatchLoader, CachedDataset, TargetSpec, open_folder
from lomt.errors import DataError

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
]

AUGMENTATION = Augmentation(flip=0.5, scale=(1.0, 2.0), brightness=0.3, contrast=0.3)


class Numbered:
    """Samples that carry their number; some take long or are damaged."""

    name = "numbered"
    fingerprint = "0"

    def __init__(self, count, delay_s=0.0, damaged=None):
        self.targets = {
            "number": TargetSpec("number", "regression"),
            "depth": TargetSpec("depth", "depth"),
        }
        self.count = count
        self.delay_s = delay_s
        self.damaged = damaged

    def __len__(self):
        return self.count

    def sample(self, index):
        time.sleep(self.delay_s)
        if index == self.damaged:
            raise DataError(f"sample {index} is damaged")
        rng = np.random.default_rng(index)
        return {
            "image": rng.integers(0, 256, (4, 6, 3), np.uint8),
            "number": np.array([index], np.float32),
            "depth": rng.random((1, 4, 6), np.float32),
        }


def numbers(batches):
    return [batch["number"].flatten().int().tolist() for batch in batches]


def assert_same_batches(first, second):
    first, second = list(first), list(second)
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert list(a) == list(b)
        for name in a:
            assert torch.equal(a[name], b[name]), name


def test_without_shuffling():
    loader = BatchLoader(Numbered(7), 3, shuffle=False)
    assert loader.batches_per_epoch == 3
    assert numbers(loader.epoch(0)) == numbers(loader.epoch(1)) == [[0, 1, 2], [3, 4, 5], [6]]


@pytest.mark.parametrize("workers", [0, 2])
def test_further_inputs_are_channels_of_the_image(workers):
    plain = list(BatchLoader(Numbered(5), 2, shuffle=False).epoch(0))
    stacked = list(BatchLoader(Numbered(5), 2, shuffle=False, workers=workers, inputs=("depth",)).epoch(0))
    for one, other in zip(plain, stacked, strict=True):
        assert torch.equal(other["image"], torch.cat([one["image"], one["depth"]], 1))
        assert torch.equal(other["depth"], one["depth"])


def test_a_rank_without_samples_has_further_inputs_too():
    loader = BatchLoader(Numbered(1), 2, shuffle=False, rank=0, world_size=2, inputs=("depth",))
    assert next(loader.epoch(0))["image"].shape == (0, 4, 4, 6)


def test_drop_last():
    loader = BatchLoader(Numbered(7), 3, shuffle=False, drop_last=True)
    assert loader.batches_per_epoch == 2
    assert numbers(loader.epoch(0)) == [[0, 1, 2], [3, 4, 5]]


def test_an_epoch_takes_every_sample_once_in_an_order_of_its_own():
    orders = []
    for seed, epoch in [(0, 0), (0, 1), (1, 0), (1, 1)]:
        batches = numbers(BatchLoader(Numbered(40), 7, shuffle=True, seed=seed).epoch(epoch))
        orders.append(tuple(number for batch in batches for number in batch))
        assert sorted(orders[-1]) == list(range(40))
    assert len(set(orders)) == 4


def test_augmentation_differs_between_epochs_and_samples():
    loader = BatchLoader(Numbered(4), 4, shuffle=False, augmentation=Augmentation(flip=0.0, scale=(1.0, 2.0)))
    plain = next(BatchLoader(Numbered(4), 4, shuffle=False).epoch(0))["depth"].amax(dim=(1, 2, 3))
    factors = [plain / next(loader.epoch(epoch))["depth"].amax(dim=(1, 2, 3)) for epoch in range(2)]
    assert len({round(float(f), 4) for f in torch.cat(factors)}) == 8


@pytest.mark.parametrize("workers", [0, 2])
def test_same_batches_however_they_are_made(tiny_folder, workers):
    dataset = open_folder(tiny_folder, "train", size=(6, 8))
    settings = {"shuffle": True, "seed": 3, "augmentation": AUGMENTATION}
    reference = BatchLoader(CachedDataset(dataset).fill(), 2, **settings)
    other = BatchLoader(dataset, 2, workers=workers, **settings)
    # NaN marks missing values, which are equal to nothing
    fill = lambda batch: {name: values.nan_to_num(-9) for name, values in batch.items()}  # noqa: E731
    assert_same_batches(map(fill, reference.epoch(5)), map(fill, other.epoch(5)))


def test_a_samples_augmentation_does_not_depend_on_its_batch():
    small = BatchLoader(Numbered(12), 2, shuffle=True, augmentation=AUGMENTATION)
    large = BatchLoader(Numbered(12), 6, shuffle=True, augmentation=AUGMENTATION)
    whole = [torch.cat([batch["image"] for batch in loader.epoch(2)]) for loader in (small, large)]
    assert torch.equal(*whole)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("start", [1, 3, 4])
def test_an_epoch_goes_on_as_it_would_have(start, workers):
    settings = {"shuffle": True, "augmentation": AUGMENTATION}
    whole = list(BatchLoader(Numbered(10), 3, **settings).epoch(1))
    assert_same_batches(
        BatchLoader(Numbered(10), 3, workers=workers, **settings).epoch(1, start), whole[start:]
    )


@pytest.mark.parametrize("world_size", [2, 3, 5])
@pytest.mark.parametrize("drop_last", [True, False])
def test_ranks_together_have_the_batch_of_one(world_size, drop_last):
    settings = {"shuffle": True, "augmentation": AUGMENTATION, "drop_last": drop_last}
    whole = list(BatchLoader(Numbered(17), 8, **settings).epoch(1))
    loaders = [
        BatchLoader(Numbered(17), 8, rank=rank, world_size=world_size, **settings)
        for rank in range(world_size)
    ]
    parts = [list(loader.epoch(1)) for loader in loaders]
    assert {len(part) for part in parts} == {len(whole)} == {loaders[0].batches_per_epoch}
    for number, batch in enumerate(whole):
        slices = [part[number] for part in parts]
        sizes = [len(part["image"]) for part in slices]
        assert max(sizes) - min(sizes) <= 1
        assert_same_batches([{name: torch.cat([part[name] for part in slices]) for name in batch}], [batch])


def test_errors_reach_the_consumer():
    batches = BatchLoader(Numbered(9, damaged=4), 3, shuffle=False).epoch(0)
    assert len(next(batches)["image"]) == 3
    with pytest.raises(DataError, match="sample 4 is damaged"):
        next(batches)


def test_abandoned_iterator_leaves_no_thread():
    for _ in BatchLoader(Numbered(30), 3, shuffle=True).epoch(0):
        break
    assert all(thread.name != "lomt-prefetch" for thread in threading.enumerate())


def test_abandoned_iterator_leaves_no_process():
    for _ in BatchLoader(Numbered(30), 3, shuffle=True, workers=1).epoch(0):
        break
    assert not multiprocessing.active_children()


def test_waiting_is_measured_and_hidden_behind_work():
    slow = BatchLoader(Numbered(8, delay_s=0.02), 2, shuffle=False)
    for _ in slow.epoch(0):
        pass
    assert slow.wait_s >= 0.9 * 8 * 0.02
    busy = BatchLoader(Numbered(8, delay_s=0.02), 2, shuffle=False)
    for _ in busy.epoch(0):
        time.sleep(0.12)
    assert busy.wait_s < slow.wait_s


def test_global_random_state_is_neither_used_nor_touched():
    def run(seed):
        torch.manual_seed(seed)
        np.random.seed(seed)
        first = list(BatchLoader(Numbered(6), 3, shuffle=True, augmentation=AUGMENTATION).epoch(0))
        return first, torch.rand(1).item(), np.random.rand()

    torch.manual_seed(1)
    np.random.seed(1)
    expected = torch.rand(1).item(), np.random.rand()
    (first, *_), (second, *after) = run(0), run(1)
    assert_same_batches(first, second)
    assert tuple(after) == expected


def test_makers_can_go_to_spawned_processes():
    maker = BatchLoader(Numbered(6), 3, shuffle=True, augmentation=AUGMENTATION)._maker(1)
    assert_same_batches([pickle.loads(pickle.dumps(maker))(1)], [maker(1)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "Expected `batch_size` to be at least 1, but got 0"),
        ({"batch_size": 2, "world_size": 3}, "Expected `batch_size` to be at least 3, but got 2"),
        ({"world_size": 2, "rank": 2}, "Expected `rank` to be from 0 to 1, but got 2"),
        ({"seed": -1}, "Expected `seed` to be at least 0, but got -1"),
        ({"workers": -1}, "Expected `workers` to be at least 0, but got -1"),
        ({"world_size": 0}, "Expected `world_size` to be at least 1, but got 0"),
        ({"batch_size": 9, "drop_last": True}, "Expected `dataset` to have at least 9 samples, but got 6"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        BatchLoader(Numbered(6), **{"batch_size": 3, "shuffle": False, **arguments})


def test_refuses_an_empty_dataset():
    with pytest.raises(ValueError, match="Expected `dataset` to have at least 1 samples, but got 0"):
        BatchLoader(Numbered(0), 3, shuffle=False)


@pytest.mark.parametrize(
    ("epoch", "start", "message"),
    [
        (-1, 0, "Expected `epoch` to be at least 0, but got -1"),
        (0, 3, "Expected `start` to be from 0 to 2, but got 3"),
        (0, -1, "Expected `start` to be from 0 to 2, but got -1"),
    ],
)
def test_refuses_at_once_not_at_the_first_batch(epoch, start, message):
    with pytest.raises(ValueError, match=message):
        BatchLoader(Numbered(6), 3, shuffle=False).epoch(epoch, start)
