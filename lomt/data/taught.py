"""Samples whose targets are what a network answers."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from lomt.data.loader import BatchLoader
from lomt.data.sample import IMAGE, Dataset, Sample, TargetSpec
from lomt.data.verify import Progress

__all__ = ["TaughtDataset", "teach"]

_BATCH_SIZE = 16


@dataclass(frozen=True, eq=False)
class TaughtDataset:
    """The images of a dataset with answers of a network as targets; made by `teach`.

    Args:
        dataset: Where the images come from, and the targets that it has itself.
        targets: What every sample has.
        own: By target, the name that it has in the dataset, where it is the dataset's own.
        answers: The others by name, ``(samples, ...)``, in their conventions.
        fingerprint: Hexadecimal hash that changes when images or answers may have changed.
    """

    dataset: Dataset
    targets: Mapping[str, TargetSpec]
    own: Mapping[str, str]
    answers: Mapping[str, np.ndarray]
    fingerprint: str

    @property
    def name(self) -> str:
        """Name of the dataset."""
        return self.dataset.name

    def mean_size(self, target: str) -> float:
        """Return the mean absolute value of a target's answers; NaN if there are none."""
        sizes = [np.abs(values).mean(dtype=np.float64) for values in self.answers[target]]
        return float(np.mean(sizes)) if sizes else math.nan

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.dataset)

    def sample(self, index: int) -> Sample:
        """Return a sample.

        Args:
            index: From 0 to ``len(self) - 1``.

        Raises:
            IndexError, DataError: Those of the dataset.
        """
        stored = self.dataset.sample(index)
        sample = {IMAGE: stored[IMAGE]}
        for name in self.targets:
            sample[name] = stored[self.own[name]] if name in self.own else self.answers[name][index, ...]
        return sample


def teach(
    dataset: Dataset,
    answer: Callable[[Tensor], Mapping[str, np.ndarray]],
    targets: Mapping[str, TargetSpec],
    *,
    own: Mapping[str, str] | None = None,
    fingerprint: str,
    batch_size: int = _BATCH_SIZE,
    progress: Progress | None = None,
    description: str = "answers",
    inputs: Sequence[str] = (),
) -> TaughtDataset:
    """Ask a network once about every image, as it is, and keep the answers in memory.

    They take what targets of their dtype take: 1 byte a pixel for up to 128 classes and for edges, 4 for depth, 6 for
    normals. With several processes each asks for itself.

    Args:
        dataset: The images, and the targets named in ``own``; whole.
        answer: From images, ``(batch, channels, height, width)`` in 0 to 1, to targets by name, ``(batch, ...)``, in
            their conventions and in the dtype in which they are to be kept.
        targets: What every sample shall have.
        own: By target, the dataset's target to take instead of an answer; none by default.
        fingerprint: Of images and network together.
        batch_size: Images asked about at once.
        progress: Told of every batch.
        description: What the progress calls it.
        inputs: The dataset's targets that become channels of the images, see `BatchLoader`.

    Raises:
        DataError: If a sample is damaged, and those of ``answer``; nothing is kept then.
    """
    own = dict(own or {})
    wanted = [name for name in targets if name not in own]
    answers: dict[str, np.ndarray] = {}
    if wanted:
        loader = BatchLoader(dataset, batch_size, shuffle=False, inputs=inputs)
        if progress is not None:
            progress.start(description, loader.batches_per_epoch)
        first = 0
        for batch in loader.epoch(0):
            found = answer(batch[IMAGE])
            for name in wanted:
                _store(answers, name, found[name], first, len(dataset))
            first += len(batch[IMAGE])
            if progress is not None:
                progress.advance()
        if progress is not None:
            progress.finish()
    return TaughtDataset(dataset, dict(targets), own, answers, fingerprint)


def _store(answers: dict[str, np.ndarray], name: str, values: np.ndarray, first: int, count: int) -> None:
    if name not in answers:
        answers[name] = np.empty((count, *values.shape[1:]), values.dtype)
    answers[name][first : first + len(values)] = values
