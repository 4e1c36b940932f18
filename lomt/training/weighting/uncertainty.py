"""Weights learned from each task's uncertainty."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lomt.training.weighting.weighting import Weighting

__all__ = ["UncertaintyWeighting"]


class UncertaintyWeighting(Weighting):
    r"""Learn one log-variance per task together with the network.

    .. math:: L = \sum_t w_t \left(e^{-s_t} L_t + s_t\right)

    where :math:`s_t` are the learned log-variances, 0 at first, and :math:`w_t` the recipe's weights.

    Args:
        weights: Weight :math:`w_t` by task name.

    References:
        Multi-Task Learning Using Uncertainty to Weigh Losses, Kendall, Gal and Cipolla, 2018,
        https://arxiv.org/abs/1705.07115; in the form without the factors 1/2 that LOMT uses.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__()
        self._weights = dict(weights)
        self.log_variances = nn.Parameter(torch.zeros(len(self._weights)))

    def coefficients(self) -> dict[str, Tensor]:
        """Return :math:`w_t e^{-s_t}`."""
        scales = torch.exp(-self.log_variances.detach())
        return {
            task: weight * scale for (task, weight), scale in zip(self._weights.items(), scales, strict=True)
        }

    def observe(self, losses: Mapping[str, Tensor]) -> None:
        r"""Set the gradient :math:`w_t (1 - e^{-s_t} L_t)`."""
        s = self.log_variances
        total = torch.stack([losses[task].detach().to(s) for task in self._weights])
        weights = torch.tensor(list(self._weights.values())).to(s)
        s.grad = weights * (1.0 - torch.exp(-s.detach()) * total)
