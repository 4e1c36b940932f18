"""Some samples of a dataset."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from lomt.data.sample import Dataset, Sample, TargetSpec

__all__ = ["Subset"]


@dataclass(frozen=True, eq=False)
class Subset:
    """The samples of a dataset at some indices, in their order.

    Args:
        dataset: Where samples come from.
        indices: Which samples.
    """

    dataset: Dataset
    indices: Int64[np.ndarray, " samples"]

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

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.indices)

    def sample(self, index: int) -> Sample:
        """Return a sample.

        Args:
            index: From 0 to ``len(self) - 1``.

        Raises:
            IndexError, DataError: Those of the dataset.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"Expected `index` to be from 0 to {len(self) - 1}, but got {index}.")
        return self.dataset.sample(int(self.indices[index]))
