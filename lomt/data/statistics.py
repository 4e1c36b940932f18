"""What the labels of a dataset are like: shares of classes, ranges of numbers, how much has no label."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np

from lomt.data.sample import TargetKind, TargetSpec

__all__ = ["STATISTICS", "TargetStatistics"]


class TargetStatistics(ABC):
    """Adds up one target over samples.

    Args:
        spec: The target.
    """

    def __init__(self, spec: TargetSpec) -> None:
        self.spec = spec
        self.samples = 0

    @abstractmethod
    def add(self, values: np.ndarray) -> None:
        """Take one sample's target in, in its convention."""

    @abstractmethod
    def result(self) -> dict[str, Any]:
        """Return plain numbers: shares from 0 to 1, and values in the target's unit."""

    @property
    def notes(self) -> list[str]:
        """Return what a user should look at."""
        return []


class ClassShares(TargetStatistics):
    """Of segmentation and classification: each class's share of what has a label, and in how many samples it is."""

    def __init__(self, spec: TargetSpec) -> None:
        super().__init__(spec)
        self.counts = np.zeros(len(spec.classes) + 1, np.int64)
        self.present = np.zeros(len(spec.classes) + 1, np.int64)

    def add(self, values: np.ndarray) -> None:
        """Count the entries of each class; the first count is of those without label."""
        counts = np.bincount(values.ravel().astype(np.intp) + 1, minlength=len(self.counts))
        self.counts += counts
        self.present += counts > 0
        self.samples += 1

    def result(self) -> dict[str, Any]:
        """Return shares by class."""
        labelled = max(int(self.counts[1:].sum()), 1)
        shares = {
            name: {"share": int(count) / labelled, "samples": int(present)}
            for name, count, present in zip(self.spec.classes, self.counts[1:], self.present[1:], strict=True)
        }
        return {"unlabelled": float(self.counts[0] / max(self.counts.sum(), 1)), "classes": shares}

    @property
    def notes(self) -> list[str]:
        """Name the classes that never occur."""
        absent = [n for n, count in zip(self.spec.classes, self.counts[1:], strict=True) if not count]
        return [f"{len(absent)} classes never occur: {', '.join(absent[:10])}"] if absent else []


class LabelShares(TargetStatistics):
    """Of multilabel and edges: each label's share of 1 among what has a label."""

    def __init__(self, spec: TargetSpec) -> None:
        super().__init__(spec)
        self.labels = spec.classes or (spec.name,)
        self.positive = np.zeros(len(self.labels), np.int64)
        self.labelled = np.zeros(len(self.labels), np.int64)
        self.entries = 0

    def add(self, values: np.ndarray) -> None:
        """Count ones and labels."""
        rows = values.reshape(len(self.labels), -1)
        self.positive += (rows == 1).sum(axis=1)
        self.labelled += (rows >= 0).sum(axis=1)
        self.entries += rows.size
        self.samples += 1

    def result(self) -> dict[str, Any]:
        """Return shares by label."""
        shares = self.positive / np.maximum(self.labelled, 1)
        return {
            "unlabelled": float(1 - self.labelled.sum() / max(self.entries, 1)),
            "classes": {
                name: {"share": float(share)} for name, share in zip(self.labels, shares, strict=True)
            },
        }

    @property
    def notes(self) -> list[str]:
        """Name the labels that are the same in all samples."""
        constant = [
            name
            for name, ones, known in zip(self.labels, self.positive, self.labelled, strict=True)
            if ones in (0, known)
        ]
        return [f"{len(constant)} labels never change: {', '.join(constant[:10])}"] if constant else []


class Range(TargetStatistics):
    """Of depth, heat maps, normals and regression: least, mean and largest of what has a label, by channel."""

    def __init__(self, spec: TargetSpec) -> None:
        super().__init__(spec)
        channels = spec.out_channels
        self.least, self.most = np.full(channels, np.inf), np.full(channels, -np.inf)
        self.total, self.count = np.zeros(channels), np.zeros(channels, np.int64)
        self.entries = 0

    def add(self, values: np.ndarray) -> None:
        """Take values in."""
        rows = values.reshape(self.spec.out_channels, -1)
        known = _KNOWN[self.spec.kind](rows)
        self.count += known.sum(axis=1)
        self.total += rows.sum(axis=1, where=known, dtype=np.float64)
        self.least = np.minimum(self.least, rows.min(axis=1, where=known, initial=np.inf))
        self.most = np.maximum(self.most, rows.max(axis=1, where=known, initial=-np.inf))
        self.entries += rows.size
        self.samples += 1

    def result(self) -> dict[str, Any]:
        """Return the ranges; null where nothing has a label."""
        means = self.total / np.maximum(self.count, 1)
        rows = zip(self.least, means, self.most, self.count, strict=True)
        ranges = [
            {"least": float(a), "mean": float(b), "most": float(c)} if count else None
            for a, b, c, count in rows
        ]
        return {"unlabelled": float(1 - self.count.sum() / max(self.entries, 1)), "channels": ranges}

    @property
    def notes(self) -> list[str]:
        """Say that nothing has a label."""
        return [] if self.count.any() else ["nothing has a label"]


_KNOWN = {
    "depth": lambda rows: rows > 0,
    "keypoints": lambda rows: rows >= 0,
    "normals": lambda rows: np.broadcast_to((rows != 0).any(axis=0), rows.shape),
    "regression": lambda rows: ~np.isnan(rows),
}

STATISTICS: Mapping[TargetKind, type[TargetStatistics]] = {
    "segmentation": ClassShares,
    "classification": ClassShares,
    "multilabel": LabelShares,
    "edges": LabelShares,
    "depth": Range,
    "normals": Range,
    "keypoints": Range,
    "regression": Range,
}
"""By kind of target."""
