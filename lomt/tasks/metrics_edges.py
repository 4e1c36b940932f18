"""Metrics of edge maps."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lomt.tasks.metrics import MetricInfo, Metrics, ratio

__all__ = ["EdgeMetrics"]

_BINS = 1024


@dataclass(frozen=True)
class EdgeMetrics(Metrics):
    """Precision and recall of edge pixels over the whole set, and the mean absolute error.

    ``ods_f`` is the best F1 of any one threshold for the whole set (optimal data-set scale), ``ap`` the
    average precision, both from histograms of the sigmoid with 1024 bins: exact for scores rounded down to
    1/1024. A pixel is compared with the one at its place; no tolerance in position is granted, unlike in BSDS
    benchmarks. Targets above one half are edges. ``mae`` is the mean absolute difference between sigmoid and
    target.

    References:
        Contour detection and hierarchical image segmentation, Arbelaez, Maire, Fowlkes and Malik, 2011,
        https://doi.org/10.1109/TPAMI.2010.161, section 2.
    """

    infos: ClassVar = (
        MetricInfo("ods_f", "fraction", higher_is_better=True),
        MetricInfo("ap", "fraction", higher_is_better=True),
        MetricInfo("mae", "fraction", higher_is_better=False),
    )

    @property
    def length(self) -> int:
        return 1 + 2 * _BINS

    def _statistics(self, prediction: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        scores = self.layout.activate(prediction.masked_select(valid))
        target = target.masked_select(valid)
        error = (scores - target).abs().sum(dtype=torch.float64)
        bins = scores.mul(_BINS).nan_to_num().long().clamp(0, _BINS - 1)
        cells = bins + _BINS * (target > 0.5)
        return torch.cat([error.view(1), torch.bincount(cells, minlength=2 * _BINS).double()])

    def _compute(self, statistics: Tensor) -> dict[str, float]:
        negatives, positives = statistics[1:].view(2, _BINS)
        # At falling thresholds: pixels at or above each bin.
        right = positives.flip(0).cumsum(0)
        predicted = right + negatives.flip(0).cumsum(0)
        there = right[-1]
        return {
            "ods_f": float((2 * right / (predicted + there)).max()) if there > 0 else math.nan,
            "ap": _average_precision(right, predicted),
            "mae": ratio(statistics[0], predicted[-1]),
        }


def _average_precision(right: Tensor, predicted: Tensor) -> float:
    """Sum precision over the steps in recall, thresholds falling: no interpolation."""
    precision = right / predicted.clamp_min(1)
    steps = right.diff(prepend=torch.zeros(1, dtype=right.dtype))
    return ratio((precision * steps).sum(), right[-1])
