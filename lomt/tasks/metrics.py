"""Task metrics as additive statistics and a function of their sum.

A metric's **statistics** of a batch are one float64 vector of fixed length, additive over samples. Its
numbers are a function of the summed vector. So a metric over a data set does not depend on how the set was
cut into batches or over processes, and a distributed evaluation needs a single sum.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float64
from torch import Tensor

from lomt.tasks.layout import TensorLayout

__all__ = ["MetricInfo", "Metrics", "ratio"]


@dataclass(frozen=True)
class MetricInfo:
    """What one number means.

    Args:
        name: Name of the metric.
        unit: Unit of the number: ``"fraction"`` (0 to 1), ``"m"``, ``"deg"``, or ``""`` for the targets' own.
        higher_is_better: Whether a larger number is a better one.
    """

    name: str
    unit: str
    higher_is_better: bool


@dataclass(frozen=True)
class Metrics(ABC):
    """The map from predictions and targets to additive statistics, and from their sum to named numbers.

    Ignored entries have no influence. A number without any entry to define it is NaN. A NaN prediction at a
    labelled entry makes every number NaN, so that a diverged model never looks good.

    Args:
        layout: Shapes and value ranges of the task's tensors.
    """

    infos: ClassVar[tuple[MetricInfo, ...]]
    layout: TensorLayout

    @property
    def higher_is_better(self) -> dict[str, bool]:
        """For each metric whether a larger number is a better one."""
        return {info.name: info.higher_is_better for info in self.infos}

    @property
    @abstractmethod
    def length(self) -> int:
        """Length of the statistics vector."""

    @torch.no_grad()
    def statistics(self, prediction: Tensor, target: Tensor) -> Float64[Tensor, " statistics"]:
        """Summarise a batch.

        Args:
            prediction: Raw output, (batch, channels) or (batch, channels, height, width).
            target: Target in the kind's shape (see :mod:`lomt.tasks.layout`).

        Returns:
            ``length`` float64 numbers on the prediction's device, additive over samples.

        Raises:
            ValueError: A shape does not fit, or a label is out of range.
            TypeError: A dtype does not fit.
        """
        self.layout.check(prediction, target)
        if prediction.dtype in (torch.float16, torch.bfloat16):
            prediction = prediction.float()
        return self._statistics(prediction, target, self.layout.find_valid(target))

    def compute(self, statistics: Float64[Tensor, "..."]) -> dict[str, float]:
        """Turn summed statistics into the named numbers, the primary metric first.

        Args:
            statistics: A sum of what :meth:`statistics` returned.

        Raises:
            ValueError: The vector is not of this metric's length.
        """
        if tuple(statistics.shape) != (self.length,):
            raise ValueError(
                f"Expected `statistics` of task `{self.layout.task}` to have shape ({self.length},), "
                f"but got {tuple(statistics.shape)}."
            )
        if bool(statistics.isnan().any()):
            return {info.name: math.nan for info in self.infos}
        numbers = self._compute(statistics.detach().cpu())
        return {info.name: numbers[info.name] for info in self.infos}

    @abstractmethod
    def _statistics(self, prediction: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """Summarise the entries where ``valid``; the arguments have been checked."""

    @abstractmethod
    def _compute(self, statistics: Tensor) -> dict[str, float]:
        """Turn finite statistics on the host into numbers by name."""


def ratio(numerator: Tensor | float, denominator: Tensor | float) -> float:
    """Divide two scalars; NaN where there is nothing to divide by."""
    return float(numerator) / float(denominator) if float(denominator) else math.nan
