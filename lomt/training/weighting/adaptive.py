"""Weights that follow how much each task's loss still moves, as AdapMTL has them."""

from collections.abc import Mapping

import torch
from torch import Tensor

from lomt.training.weighting.weighting import Weighting

__all__ = ["AdaptiveWeighting"]

# Published are 5000 and 500 of 20 000 steps.
_BEGIN, _WINDOW = 0.25, 0.025
_LEAST_WINDOW = 10


class AdaptiveWeighting(Weighting):
    r"""Weigh every task by the relative change of its loss, averaged over a sliding window.

    .. math:: w_t = p_t \, T \, \bar d_t / \sum_j \bar d_j, \qquad
        d_t(i) = |L_t(i-1) - L_t(i)| / L_t(i)

    where :math:`p_t` is the recipe's weight, :math:`T` the number of tasks, and :math:`\bar d_t` the mean of the last
    values of :math:`d_t`. Until the window is full the weights are :math:`p_t`. Tasks whose loss fluctuates more get
    more weight. Changes are collected after the first quarter of the training, in a window of a fortieth of it and
    of ten steps at least: the published 5000 and 500 of 20 000 steps at that length.

    Args:
        weights: Weight :math:`p_t` by task name.

    References:
        Xiang et al., "AdapMTL: Adaptive Pruning Framework for Multitask Learning Model", 2024,
        https://arxiv.org/abs/2408.03913, and its official code, which has three tasks in place of :math:`T`.
    """

    changes: Tensor
    last: Tensor

    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__()
        self._weights = dict(weights)
        self._begin = 1
        self._seen = self._collected = 0
        self.register_buffer("changes", torch.zeros(len(weights), _LEAST_WINDOW, dtype=torch.float64))
        self.register_buffer("last", torch.zeros(len(weights), dtype=torch.float64))

    def begin(self, steps: int) -> None:
        """Scale beginning and window to the length of the training."""
        self._begin = max(round(_BEGIN * steps), 1)
        window = max(round(_WINDOW * steps), _LEAST_WINDOW)
        self.changes = self.changes.new_zeros(len(self._weights), window)

    def coefficients(self) -> dict[str, Tensor]:
        r"""Return :math:`w_t`."""
        shares = self._shares()
        return {
            task: weight * share for (task, weight), share in zip(self._weights.items(), shares, strict=True)
        }

    def observe(self, losses: Mapping[str, Tensor]) -> None:
        """Take the relative change of every loss into the window."""
        now = torch.stack([losses[task].detach().to(self.last) for task in self._weights])
        if self._seen >= self._begin:
            tiny = torch.finfo(torch.float64).tiny
            place = self._collected % self.changes.shape[1]
            self.changes[:, place] = (self.last - now).abs() / now.abs().clamp(min=tiny)
            self._collected += 1
        self.last.copy_(now)
        self._seen += 1

    def get_extra_state(self) -> Tensor:
        """Return how many steps were seen, and how many changes collected."""
        return torch.tensor([self._seen, self._collected])

    def set_extra_state(self, state: Tensor) -> None:
        """Take over what `get_extra_state` gave."""
        self._seen, self._collected = state.tolist()

    def _shares(self) -> Tensor:
        means = self.changes.mean(dim=1)
        if self._collected < self.changes.shape[1]:
            return torch.ones_like(means)
        total = means.sum()
        is_usable = (total > 0) & total.isfinite()
        return torch.where(is_usable, len(means) * means / total, 1)
