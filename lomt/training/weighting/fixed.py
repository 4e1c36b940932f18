"""Constant weights from the recipe."""

from collections.abc import Mapping

import torch
from torch import Tensor

from lomt.training.weighting.weighting import Weighting

__all__ = ["FixedWeighting"]


class FixedWeighting(Weighting):
    """Weigh every task by the constant given.

    Args:
        weights: Weight by task name.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__()
        self._weights = dict(weights)

    def coefficients(self) -> dict[str, Tensor]:
        """Return the constants."""
        return {task: torch.tensor(weight) for task, weight in self._weights.items()}

    def observe(self, losses: Mapping[str, Tensor]) -> None:
        """Nothing is learned."""
