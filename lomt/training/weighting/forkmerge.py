"""Copies trained on the target with more and more auxiliaries, merged by search."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lomt.errors import UnknownNameError
from lomt.training.weighting.branches import BranchWeighting
from lomt.training.weighting.weighting import TrainingView

__all__ = ["ForkMerge"]

_SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


class ForkMerge(BranchWeighting):
    r"""Train branches on the target and its first :math:`k` auxiliaries and average them as the target likes best.

    .. math:: \theta \leftarrow \frac{\sum_b \Lambda_b \theta_b}{\sum_b \Lambda_b}

    The branch with the least held-out loss of the target gets :math:`\Lambda = 1`; each next one the best of 0,
    0.2, ..., 1 times the mean of those before it.

    Args:
        weights: Weight by task name.
        target: The target task.
        auxiliaries: The useful ones first; the recipe's order without it. The authors rank them by pilot runs.
        most: Largest :math:`k`.
        epochs_each: Epochs of a branch between two merges.
        steps: Held-out batches that judge a merge.

    References:
        ForkMerge: Mitigating Negative Transfer in Auxiliary-Task Learning, Jiang et al., 2023,
        https://arxiv.org/abs/2301.12618, algorithm 1, and its public code for the search.
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        *,
        target: str,
        auxiliaries: Sequence[str] | None = None,
        most: int = 2,
        epochs_each: int = 1,
        steps: int = 8,
    ) -> None:
        others = [task for task in weights if task != target]
        for task in auxiliaries or ():
            if task not in others:
                raise UnknownNameError("auxiliary task", task, others)
        ranked = list(auxiliaries if auxiliaries is not None else others)
        branches = [(target, *ranked[:count]) for count in range(min(most, len(ranked)) + 1)]
        super().__init__(weights, target, branches, epochs_each=epochs_each, steps=steps)

    @torch.no_grad()
    def merge(self, training: TrainingView) -> tuple[Tensor, dict[str, Any]]:
        """Return the best average of the branches' ends."""
        order = sorted(range(len(self.ends)), key=lambda branch: self._loss(training, self.ends[branch]))
        shares = torch.zeros(len(self.ends), dtype=torch.float64)
        shares[order[0]] = 1.0
        for place, branch in enumerate(order[1:], 1):
            unit = float(shares.sum()) / place
            tried = {share: shares.clone() for share in _SHARES}
            for share, own in tried.items():
                own[branch] = share * unit
            shares = tried[min(_SHARES, key=lambda share: self._loss(training, self._mean(tried[share])))]
        names = ["+".join(own) for own in self._branches]
        return self._mean(shares), {"merge": dict(zip(names, shares.tolist(), strict=True))}

    def _mean(self, shares: Tensor) -> Tensor:
        return (shares / shares.sum()).to(self.ends) @ self.ends

    def _loss(self, training: TrainingView, weights: Tensor) -> float:
        batches = self.held_out_batches(training)
        losses = [self.target_loss(training, weights, batch) for batch in batches]
        return float(training.mean(torch.stack(losses).mean()))
