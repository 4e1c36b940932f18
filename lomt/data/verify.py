"""Every sample of a dataset decoded once, so that what is damaged is known before a run starts."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from lomt.data.sample import Dataset, Sample
from lomt.data.subset import Subset
from lomt.errors import DataError

__all__ = ["Damage", "Progress", "find_damage", "require_whole", "without_damage"]

_AHEAD = 64
_MOST_SHOWN = 10


@runtime_checkable
class Progress(Protocol):
    """Someone to tell how far work has come."""

    def start(self, description: str, total: int, done: int = 0) -> None:
        """Begin something new."""

    def advance(self, count: int = 1, **figures: float) -> None:
        """Say that some of it is done."""

    def finish(self, note: str = "") -> None:
        """Say that all of it is done."""


@dataclass(frozen=True)
class Damage:
    """A sample that cannot be read.

    Args:
        index: Its index in the dataset.
        message: What is wrong, with file and row.
    """

    index: int
    message: str


def find_damage(
    dataset: Dataset,
    *,
    threads: int = 2,
    visit: Callable[[int, Sample], None] | None = None,
    progress: Progress | None = None,
    description: str = "checking",
) -> tuple[Damage, ...]:
    """Decode every sample, several at once, and note the damaged ones.

    Args:
        dataset: Where samples come from.
        threads: How many samples are decoded at once.
        visit: Called with index and sample of every whole one, in order, in the calling thread.
        progress: Told of every sample.
        description: What the progress calls it.

    Returns:
        The damaged samples in order.
    """
    damages = []
    if progress is not None:
        progress.start(description, len(dataset))
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(dataset), _AHEAD):  # bounded: whole samples wait here
            indices = range(start, min(start + _AHEAD, len(dataset)))
            for index, found in zip(indices, pool.map(lambda i: _attempt(dataset, i), indices), strict=True):
                if isinstance(found, Damage):
                    damages.append(found)
                elif visit is not None:
                    visit(index, found)
                if progress is not None:
                    progress.advance()
    if progress is not None:
        progress.finish(f"{len(damages)} damaged" if damages else "")
    return tuple(damages)


def _attempt(dataset: Dataset, index: int) -> Sample | Damage:
    try:
        return dataset.sample(index)
    except DataError as error:
        return Damage(index, str(error))


def require_whole(dataset: Dataset, damages: Sequence[Damage]) -> None:
    """Raise a `DataError` with the first ten damaged samples, if there is any."""
    if not damages:
        return
    more = f"; the first {_MOST_SHOWN} are" if len(damages) > _MOST_SHOWN else ""
    lines = [f"  {damage.message}" for damage in damages[:_MOST_SHOWN]]
    head = (
        f"Expected whole samples in {dataset.name}, but {len(damages)} of {len(dataset)} are damaged{more}:"
    )
    way_out = "Mend them, or leave them out with `data.damaged: skip`."
    raise DataError("\n".join([head, *lines, way_out]))


def without_damage(dataset: Dataset, damages: Sequence[Damage]) -> Dataset:
    """Return the whole samples of a dataset: itself where nothing is damaged.

    Raises:
        DataError: If all are damaged.
    """
    if not damages:
        return dataset
    if len(damages) == len(dataset):
        require_whole(dataset, damages)
    kept = np.setdiff1d(np.arange(len(dataset)), [damage.index for damage in damages])
    return Subset(dataset, kept.astype(np.int64))
