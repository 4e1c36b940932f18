"""Metrics of plain values: key-point heat maps and regression."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lomt.tasks.metrics import MetricInfo, Metrics, ratio

__all__ = ["KeypointMetrics", "RegressionMetrics"]

# Below this share of the squared values, what is left as variance is rounding.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class KeypointMetrics(Metrics):
    """Mean absolute and root mean squared error between sigmoid and heat map, over all labelled entries."""

    infos: ClassVar = (
        MetricInfo("mae", "fraction", higher_is_better=False),
        MetricInfo("rmse", "fraction", higher_is_better=False),
    )

    @property
    def length(self) -> int:
        return 3

    def _statistics(self, prediction: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        scores = self.layout.activate(prediction.masked_select(valid))
        error = scores - target.masked_select(valid)
        summands = (valid, error.abs(), error.square())
        return torch.stack([summand.sum(dtype=torch.float64) for summand in summands])

    def _compute(self, statistics: Tensor) -> dict[str, float]:
        count, absolute, squared = statistics.tolist()
        return {"mae": ratio(absolute, count), "rmse": ratio(squared, count) ** 0.5}


@dataclass(frozen=True)
class RegressionMetrics(Metrics):
    r"""Mean absolute and root mean squared error over all labelled entries, and coefficient of determination.

    .. math:: R^2 = 1 - \frac{\sum (p - t)^2}{\sum (t - \bar t)^2}

    for each output, averaged over the outputs whose targets vary; NaN where none does.
    """

    infos: ClassVar = (
        MetricInfo("mae", "", higher_is_better=False),
        MetricInfo("rmse", "", higher_is_better=False),
        MetricInfo("r2", "fraction", higher_is_better=True),
    )

    @property
    def length(self) -> int:
        return 5 * self.layout.channels

    def _statistics(self, prediction: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        target = torch.where(valid, target, 0).double()
        error = torch.where(valid, prediction.double() - target, 0)
        columns = (valid.double(), error.abs(), error.square(), target, target.square())
        return torch.stack([column.sum(dim=0) for column in columns]).flatten()

    def _compute(self, statistics: Tensor) -> dict[str, float]:
        count, absolute, squared, total, total_squares = statistics.view(5, -1)
        variation = total_squares - total.square() / count.clamp_min(1)
        varies = variation > _ROUNDING * total_squares
        r2 = 1 - squared[varies] / variation[varies]
        return {
            "mae": ratio(absolute.sum(), count.sum()),
            "rmse": ratio(squared.sum(), count.sum()) ** 0.5,
            "r2": float(r2.mean()) if bool(varies.any()) else math.nan,
        }
