"""Metrics of class decisions: segmentation, classification and multilabel tasks.

All three rest on three counts per class over the whole set: how often the class was right, predicted, and
there. They are the diagonal and the two margins of the one confusion matrix, and additive as it is.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Float64, Int64, Integer
from torch import Tensor

from lomt.tasks.metrics import MetricInfo, Metrics, ratio

__all__ = ["ClassificationMetrics", "MultilabelMetrics", "SegmentationMetrics"]


@dataclass(frozen=True)
class _ClassMetrics(Metrics):
    """Counts per class of one decision among many."""

    @property
    def length(self) -> int:
        return 3 * self.layout.channels

    def _statistics(self, prediction: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        return _count_classes(prediction, target, valid).flatten()


@dataclass(frozen=True)
class SegmentationMetrics(_ClassMetrics):
    r"""Mean intersection over union and pixel accuracy over the whole set.

    .. math:: \mathrm{IoU}_c = \mathrm{right}_c / (\mathrm{predicted}_c + \mathrm{there}_c - \mathrm{right}_c)

    Classes that are neither predicted nor there are left out of the mean.
    """

    infos: ClassVar = (
        MetricInfo("miou", "fraction", higher_is_better=True),
        MetricInfo("pixel_accuracy", "fraction", higher_is_better=True),
    )

    def _compute(self, statistics: Tensor) -> dict[str, float]:
        right, predicted, there = statistics.view(3, -1)
        return {
            "miou": _mean_ratio(right, predicted + there - right),
            "pixel_accuracy": ratio(right.sum(), there.sum()),
        }


@dataclass(frozen=True)
class ClassificationMetrics(_ClassMetrics):
    """Accuracy, and the mean F1 over the classes that are predicted or there."""

    infos: ClassVar = (
        MetricInfo("accuracy", "fraction", higher_is_better=True),
        MetricInfo("macro_f1", "fraction", higher_is_better=True),
    )

    def _compute(self, statistics: Tensor) -> dict[str, float]:
        right, predicted, there = statistics.view(3, -1)
        return {
            "accuracy": ratio(right.sum(), there.sum()),
            "macro_f1": _mean_ratio(2 * right, predicted + there),
        }


@dataclass(frozen=True)
class MultilabelMetrics(Metrics):
    """Mean F1 over the labels that are predicted or there, and accuracy over all labelled entries.

    A label is predicted where its logit is above 0, that is, its probability above one half.
    """

    infos: ClassVar = (
        MetricInfo("macro_f1", "fraction", higher_is_better=True),
        MetricInfo("accuracy", "fraction", higher_is_better=True),
    )

    @property
    def length(self) -> int:
        return 4 * self.layout.channels

    def _statistics(self, prediction: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        predicted = (prediction > 0) & valid
        there = (target > 0.5) & valid
        counts = torch.stack([predicted & there, predicted, there, valid]).sum(dim=1).double()
        return counts.masked_fill((prediction.isnan() & valid).any(), torch.nan).flatten()

    def _compute(self, statistics: Tensor) -> dict[str, float]:
        right, predicted, there, labelled = statistics.view(4, -1)
        wrong = predicted + there - 2 * right
        return {
            "macro_f1": _mean_ratio(2 * right, predicted + there),
            "accuracy": ratio((labelled - wrong).sum(), labelled.sum()),
        }


def _count_classes(
    prediction: Float[Tensor, "batch classes *pixels"],
    target: Integer[Tensor, " batch *pixels"],
    valid: Bool[Tensor, " batch *pixels"],
) -> Float64[Tensor, "3 classes"]:
    """Count per class where it is right, predicted, and there; NaN if a prediction is."""
    classes = prediction.shape[1]
    predicted = _highest_class(prediction)
    target = target.long()
    is_broken = ((predicted == classes) & valid).any()
    # Class number `classes` collects what does not count.
    columns = (
        torch.where(valid & (predicted == target), target, classes),
        torch.where(valid, predicted, classes),
        torch.where(valid, target, classes),
    )
    counts = [torch.bincount(column.flatten(), minlength=classes + 1)[:classes] for column in columns]
    return torch.stack(counts).double().masked_fill(is_broken, torch.nan)


def _highest_class(scores: Float[Tensor, "batch classes *pixels"]) -> Int64[Tensor, " batch *pixels"]:
    """Find the class of the highest score, the lowest of equals; the number of classes where a score is NaN.

    Equal to ``argmax``, which is ten times slower over a strided axis on the host.
    """
    classes = scores.shape[1]
    dtype = torch.uint8 if classes <= 255 else torch.int32
    rank = torch.arange(classes, 0, -1, dtype=dtype, device=scores.device)
    is_highest = scores == scores.amax(dim=1, keepdim=True)
    return classes - (is_highest * rank.view(-1, *[1] * (scores.ndim - 2))).amax(dim=1).long()


def _mean_ratio(numerators: Float64[Tensor, " n"], denominators: Float64[Tensor, " n"]) -> float:
    """Average the ratios that are defined; NaN if none is."""
    is_defined = denominators > 0
    if not bool(is_defined.any()):
        return math.nan
    return float((numerators[is_defined] / denominators[is_defined]).mean())
