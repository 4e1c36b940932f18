"""NYU-Depth v2 with more tasks than it comes with: whether each class is in the image, made of its segmentation."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lomt.data import Dataset, Sample, TargetSpec, open_folder

STORED = ("segmentation", "depth", "normals", "edges", "scene")
PRESENT_FROM = 0.005
"""Share of the labelled pixels from which on a class counts as present."""


def open_split(split: str, size: tuple[int, int], validation_fraction: float = 0.1) -> Dataset:
    """Return a split with the stored targets and ``has_<class>``, one label each."""
    root = Path(os.environ["LOMT_DATA"]) / "nyuv2"
    return WithPresence(
        open_folder(root, split, size=size, targets=list(STORED), validation_fraction=validation_fraction)
    )


@dataclass(frozen=True, eq=False)
class WithPresence:
    """Samples with a label a class: 1 where the class is in the image.

    Args:
        dataset: With a target ``segmentation``.
    """

    dataset: Dataset

    @property
    def name(self) -> str:
        """Name of the dataset."""
        return self.dataset.name

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of the segmentation."""
        return self.dataset.targets["segmentation"].classes

    @property
    def targets(self) -> Mapping[str, TargetSpec]:
        """Those of the dataset, and the labels."""
        made = {f"has_{name}": TargetSpec(f"has_{name}", "multilabel", (name,)) for name in self.classes}
        return {**self.dataset.targets, **made}

    @property
    def fingerprint(self) -> str:
        """Of the samples and of how labels are made."""
        return hashlib.sha256(f"{self.dataset.fingerprint} present from {PRESENT_FROM}".encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.dataset)

    def sample(self, index: int) -> Sample:
        """Return a sample with its labels."""
        found = self.dataset.sample(index)
        labels = found["segmentation"]
        counts = np.bincount(labels[labels >= 0].ravel(), minlength=len(self.classes))
        least = max(1.0, PRESENT_FROM * counts.sum())
        return found | {
            f"has_{name}": np.array([count >= least], np.int8)
            for name, count in zip(self.classes, counts, strict=True)
        }
