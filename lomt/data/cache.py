"""Decoded samples kept in memory."""

import logging
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from lomt.data.sample import Dataset, Sample, TargetSpec

__all__ = ["CachedDataset"]

logger = logging.getLogger(__name__)

_MILLIMETRE = np.float32(0.001)


class CachedDataset:
    """A dataset whose samples are decoded once and kept; the values are exactly those of the dataset.

    Depth maps that are whole millimetres, as most files store them, take two bytes a pixel. NYU-v2 (1449
    images of 96x128, five targets) takes 231 MB.

    A sample is decoded on first use, or all are by `fill`. Worker processes share what was filled before they
    start; what they decode themselves is lost when they end.

    Args:
        dataset: Where samples come from.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self._packed: list[Sample | None] = [None] * len(dataset)

    @property
    def name(self) -> str:
        """Name of the dataset."""
        return self.dataset.name

    @property
    def targets(self) -> Mapping[str, TargetSpec]:
        """Targets of the dataset."""
        return self.dataset.targets

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the dataset."""
        return self.dataset.fingerprint

    @property
    def size_bytes(self) -> int:
        """Memory that the samples take so far."""
        return sum(array.nbytes for sample in self._packed if sample is not None for array in sample.values())

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.dataset)

    def sample(self, index: int) -> Sample:
        """Return a sample, decoding it if that has not been done; its arrays must not be modified.

        Args:
            index: From 0 to ``len(self) - 1``.

        Raises:
            IndexError, DataError: Those of the dataset; nothing is kept then.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"Expected `index` to be from 0 to {len(self) - 1}, but got {index}.")
        packed = self._packed[index]
        if packed is None:
            packed = {name: self._pack(name, array) for name, array in self.dataset.sample(index).items()}
            self._packed[index] = packed
        return {name: self._unpack(name, array) for name, array in packed.items()}

    def fill(self, threads: int = 2) -> "CachedDataset":
        """Decode all samples that are not there yet, and return the dataset itself.

        Args:
            threads: How many samples are decoded at once.

        Raises:
            DataError: The first one of the dataset.
        """
        began = time.perf_counter()
        with ThreadPoolExecutor(threads) as pool:
            for start in range(0, len(self), 256):  # bounded: a future takes a kilobyte
                for _ in pool.map(self.sample, range(start, min(start + 256, len(self)))):
                    pass
        seconds, megabytes = time.perf_counter() - began, self.size_bytes / 1e6
        logger.info("%s: %d samples, %.0f MB, decoded in %.1f s", self.name, len(self), megabytes, seconds)
        return self

    def _pack(self, name: str, array: np.ndarray) -> np.ndarray:
        """Return what is kept of an array: whole millimetres as integers if that loses nothing."""
        if not self._is_depth(name) or array.dtype != np.float32 or not (array < 65.5).all():
            return array
        packed = np.rint(array / _MILLIMETRE).astype(np.uint16)
        return packed if np.array_equal(packed * _MILLIMETRE, array) else array

    def _unpack(self, name: str, array: np.ndarray) -> np.ndarray:
        return array * _MILLIMETRE if self._is_depth(name) and array.dtype == np.uint16 else array

    def _is_depth(self, name: str) -> bool:
        return name in self.targets and self.targets[name].kind == "depth"
