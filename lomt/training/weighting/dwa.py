"""Weights from how fast each task's loss falls."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lomt.training.weighting.weighting import Weighting

__all__ = ["DynamicWeightAverage"]


class DynamicWeightAverage(Weighting):
    r"""Weigh a task the more the slower its loss has fallen lately.

    .. math:: a_t = w_t \, K \frac{e^{r_t / T}}{\sum_i e^{r_i / T}}, \qquad
        r_t = \frac{\bar L_t(\tau - 1)}{\bar L_t(\tau - 2)}

    with the mean losses :math:`\bar L` of the last two epochs, :math:`K` tasks and the recipe's weights
    :math:`w_t`; all :math:`r_t = 1` in the first two epochs.

    Args:
        weights: :math:`w_t` by task name.
        temperature: :math:`T > 0`.

    Raises:
        ValueError: If the temperature is not above 0.

    References:
        End-to-End Multi-Task Learning with Attention, Liu, Johns and Davison, 2019,
        https://arxiv.org/abs/1803.10704, equation 7.
    """

    sums: Tensor
    epochs: Tensor

    def __init__(self, weights: Mapping[str, float], *, temperature: float = 2.0) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"Expected `temperature` to be above 0, but got {temperature}.")
        self._weights, self._temperature = dict(weights), temperature
        count = len(self._weights)
        self.register_buffer("sums", torch.zeros(count, dtype=torch.float64))
        self.register_buffer("epochs", torch.full((2, count), torch.nan, dtype=torch.float64))

    def coefficients(self) -> dict[str, Tensor]:
        """Return :math:`a_t`, constant through an epoch."""
        ratios = torch.nan_to_num(self.epochs[1] / self.epochs[0], nan=1.0, posinf=1.0)
        shares = torch.softmax(ratios / self._temperature, 0) * len(self._weights)
        pairs = zip(self._weights.items(), shares.float(), strict=True)
        return {task: weight * share for (task, weight), share in pairs}

    def observe(self, losses: Mapping[str, Tensor]) -> None:
        """Add up the epoch's losses; the ratio of two epochs of as many steps needs no mean."""
        self.sums += torch.stack([losses[task].detach() for task in self._weights]).to(self.sums)

    def after_epoch(self, epoch: int) -> dict[str, Any]:
        """Take the epoch's losses as the latest."""
        self.epochs.copy_(torch.stack([self.epochs[1], self.sums]))
        self.sums.zero_()
        return {"weights": {task: float(value) for task, value in self.coefficients().items()}}
