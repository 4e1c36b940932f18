"""Metrics of depth."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lomt.tasks.metrics import MetricInfo, Metrics, ratio

__all__ = ["DepthMetrics"]

_SMALLEST_DEPTH_M = 1e-3


@dataclass(frozen=True)
class DepthMetrics(Metrics):
    r"""Errors and ratio accuracies over all labelled pixels of the set.

    With prediction :math:`p` and target :math:`t`, both in metres: ``abs_error`` is the mean of
    :math:`|p - t|`, ``rel_error`` of :math:`|p - t| / t`, ``rmse`` the root of the mean of :math:`(p - t)^2`,
    and ``delta<k>`` the fraction where :math:`\max(p / t, t / p) < 1.25^k`, with :math:`p` raised to 1 mm.

    References:
        Depth map prediction from a single image using a multi-scale deep network, Eigen, Puhrsch and Fergus,
        2014, https://arxiv.org/abs/1406.2283.
    """

    infos: ClassVar = (
        MetricInfo("abs_error", "m", higher_is_better=False),
        MetricInfo("rel_error", "fraction", higher_is_better=False),
        MetricInfo("rmse", "m", higher_is_better=False),
        MetricInfo("delta1", "fraction", higher_is_better=True),
        MetricInfo("delta2", "fraction", higher_is_better=True),
        MetricInfo("delta3", "fraction", higher_is_better=True),
    )

    @property
    def length(self) -> int:
        return 7

    def _statistics(self, prediction: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        prediction, target = prediction.masked_select(valid), target.masked_select(valid)
        error = (prediction - target).abs()
        clamped = prediction.clamp_min(_SMALLEST_DEPTH_M)
        larger_ratio = torch.maximum(clamped / target, target / clamped)
        summands = [error, error / target, error.square(), *(larger_ratio < 1.25**k for k in (1, 2, 3))]
        sums = [summand.sum(dtype=torch.float64) for summand in summands]
        return torch.stack([valid.sum(dtype=torch.float64), *sums])

    def _compute(self, statistics: Tensor) -> dict[str, float]:
        count, absolute, relative, squared, *within = statistics.tolist()
        return {
            "abs_error": ratio(absolute, count),
            "rel_error": ratio(relative, count),
            "rmse": ratio(squared, count) ** 0.5,
            **{f"delta{k}": ratio(number, count) for k, number in enumerate(within, start=1)},
        }
