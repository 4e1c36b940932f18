"""Batches of a dataset, the same ones however they are made."""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lomt.data.array_pool import ArrayPool
from lomt.data.augment import Augmentation
from lomt.data.collate import collate
from lomt.data.prefetch import in_processes, in_thread
from lomt.data.sample import IMAGE, Dataset

__all__ = ["BatchLoader"]

# NumPy pads seeds with zeros: without a first number that differs, order and sample 0 would share a stream
_ORDER_STREAM, _SAMPLE_STREAM = 1, 2


class BatchLoader:
    """Cut a dataset into batches, epoch after epoch.

    There is no state: the order depends on ``seed`` and the epoch alone, a sample's augmentation on ``seed``,
    the epoch and the sample's index. A batch is therefore the same whatever the number of workers, and
    whether or not the epoch began with it. With several ranks, each global batch of ``batch_size`` samples is
    cut into contiguous slices whose sizes differ by at most one, and every rank has the same number of
    batches; a last global batch of fewer samples than ranks leaves some ranks a batch of no samples.

    Batches are made ahead, by one background thread (right for a `CachedDataset`) or by worker processes
    (right where decoding is the work). Both are gone when the iterator is exhausted, closed or collected.

    Args:
        dataset: Where samples come from.
        batch_size: Samples in a global batch.
        shuffle: Whether the order is random.
        seed: Seed of order and augmentation, at least 0.
        augmentation: Applied to every sample; none by default.
        workers: Number of worker processes; 0 for the thread.
        drop_last: Whether a last, smaller batch is left out.
        rank: Which slice of each global batch is this process's.
        world_size: Number of ranks.
        inputs: Dense targets that become further channels of the image, in this order, in their own units.

    Raises:
        ValueError: If an argument is out of its range, or there would be no batch at all.

    Attributes:
        wait_s: Seconds that the consumer has waited for batches so far.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        *,
        shuffle: bool,
        seed: int = 0,
        augmentation: Augmentation | None = None,
        workers: int = 0,
        drop_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
        inputs: Sequence[str] = (),
    ) -> None:
        _check("seed", seed, 0)
        _check("workers", workers, 0)
        _check("world_size", world_size, 1)
        _check("batch_size", batch_size, world_size)
        if not 0 <= rank < world_size:
            raise ValueError(f"Expected `rank` to be from 0 to {world_size - 1}, but got {rank}.")
        least = batch_size if drop_last else 1
        if len(dataset) < least:
            raise ValueError(f"Expected `dataset` to have at least {least} samples, but got {len(dataset)}.")
        self.dataset = dataset
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.augmentation = augmentation
        self.workers = workers
        self.drop_last = drop_last
        self.rank = rank
        self.world_size = world_size
        self.inputs = tuple(inputs)
        self.wait_s = 0.0
        self._pool = ArrayPool()

    @property
    def batches_per_epoch(self) -> int:
        """Number of batches in an epoch, on every rank."""
        count = len(self.dataset)
        return count // self.batch_size if self.drop_last else -(-count // self.batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[dict[str, Tensor]]:
        """Return an iterator over an epoch's batches.

        Args:
            epoch: Number of the epoch, from 0.
            start: Number of the first batch wanted, from 0; the epoch goes on from there as it would have.

        Returns:
            A generator, to be closed where it is abandoned before the end but kept.

        Raises:
            ValueError: If ``epoch`` or ``start`` is out of its range.
            DataError: While iterating, in the place of the batch with the damaged sample.
        """
        _check("epoch", epoch, 0)
        if not 0 <= start <= self.batches_per_epoch:
            raise ValueError(f"Expected `start` to be from 0 to {self.batches_per_epoch}, but got {start}.")
        return self._timed(self._maker(epoch), range(start, self.batches_per_epoch))

    def _maker(self, epoch: int) -> "_BatchMaker":
        order = np.arange(len(self.dataset))
        if self.shuffle:
            order = np.random.default_rng((_ORDER_STREAM, self.seed, epoch)).permutation(order)
        return _BatchMaker(
            self.dataset, self.augmentation, self.seed, epoch, order, self._slice, self._pool, self.inputs
        )

    def _slice(self, batch: int) -> slice:
        """Return where this rank's part of a global batch lies in the order."""
        first = batch * self.batch_size
        count = min(self.batch_size, len(self.dataset) - first)
        return slice(
            first + count * self.rank // self.world_size, first + count * (self.rank + 1) // self.world_size
        )

    def _timed(self, make: "_BatchMaker", numbers: range) -> Generator[dict[str, Tensor], None, None]:
        """Yield the batches and add up how long each one was waited for."""
        began = time.perf_counter()
        workers = self.workers
        batches = in_processes(make, numbers, workers=workers) if workers else in_thread(make, numbers)
        with closing(batches):
            for batch in batches:
                self.wait_s += time.perf_counter() - began
                yield batch
                began = time.perf_counter()


@dataclass(frozen=True)
class _BatchMaker:
    """The map from a batch's number to the batch, of one epoch and rank; picklable if the dataset is."""

    dataset: Dataset
    augmentation: Augmentation | None
    seed: int
    epoch: int
    order: np.ndarray
    where: Callable[[int], slice]
    pool: ArrayPool
    inputs: tuple[str, ...]

    def __call__(self, number: int) -> dict[str, Tensor]:
        indices = self.order[self.where(number)].tolist()
        if indices:
            return self._stacked(
                collate([self._sample(index) for index in indices], self.dataset.targets, self.pool)
            )
        shapes = self._stacked(collate([self.dataset.sample(0)], self.dataset.targets))
        return {name: values[:0] for name, values in shapes.items()}

    def _stacked(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Put what the network takes beside the image among the image's channels."""
        if not self.inputs:
            return batch
        parts = [batch[name].numpy() for name in (IMAGE, *self.inputs)]
        return {**batch, IMAGE: torch.from_numpy(np.concatenate(parts, 1))}

    def _sample(self, index: int) -> dict[str, np.ndarray]:
        sample = self.dataset.sample(index)
        if self.augmentation is None:
            return sample
        rng = np.random.default_rng((_SAMPLE_STREAM, self.seed, self.epoch, index))
        return self.augmentation(sample, rng, self.dataset.targets)


def _check(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"Expected `{name}` to be at least {least}, but got {value}.")
