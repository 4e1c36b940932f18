"""Single-task updates mixed so that the target gains."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lomt.training.weighting.branches import BranchWeighting, flat
from lomt.training.weighting.weighting import TrainingView

__all__ = ["AlphaVil"]


class AlphaVil(BranchWeighting):
    r"""Train each task alone from the same weights and mix the changes so that the target's held-out loss is least.

    .. math:: \theta \leftarrow \theta + \sum_t \alpha_t \delta_t, \qquad
        \alpha \leftarrow \alpha - \eta \nabla_\alpha L^{\mathrm{dev}}_{\mathrm{target}}(\theta + \sum_t \alpha_t
        \delta_t), \qquad w_t \leftarrow \max(0, w_t + \alpha_t - 1)

    from :math:`\alpha = 1` in every round. The gradient needs no second derivatives:
    :math:`\partial L / \partial \alpha_t = \langle \nabla_\theta L, \delta_t \rangle`. It is divided by the
    greatest length so far in the round, so that no step moves :math:`\alpha` further than ``alpha_lr``.

    Args:
        weights: First :math:`w_t` by task name.
        target: The target task.
        alpha_lr: :math:`\eta > 0`.
        steps: Held-out batches, one step of :math:`\alpha` each.

    References:
        αVIL: Learning to Leverage Auxiliary Tasks for Multitask Learning, Kourdis, Gordon-Hall and Gorinski, 2024,
        https://arxiv.org/abs/2405.07769, algorithm 1. The scale of the gradient and the bound at zero are ours.
    """

    def __init__(
        self, weights: Mapping[str, float], *, target: str, alpha_lr: float = 0.1, steps: int = 8
    ) -> None:
        super().__init__(weights, target, [(task,) for task in weights], epochs_each=1, steps=steps)
        if not alpha_lr > 0:
            raise ValueError(f"Expected `alpha_lr` to be above 0, but got {alpha_lr}.")
        self._alpha_lr = alpha_lr

    def merge(self, training: TrainingView) -> tuple[Tensor, dict[str, Any]]:
        r"""Find :math:`\alpha`, move the tasks' weights by it and return the mixed weights of the network."""
        deltas = self.ends - self.start
        alpha = self.start.new_ones(len(deltas))
        longest = 1e-12
        for batch in self.held_out_batches(training):
            gradient = training.mean(self.alpha_gradient(training, alpha, batch))
            longest = max(longest, float(gradient.norm()))
            alpha = alpha - self._alpha_lr / longest * gradient
        self.learned.copy_((self.learned + alpha.to(self.learned) - 1).clamp_min(0))
        found = {
            "alpha": dict(zip(self._tasks, alpha.tolist(), strict=True)),
            "weights": dict(zip(self._tasks, self.learned.tolist(), strict=True)),
        }
        return self.start + alpha @ deltas, found

    def alpha_gradient(
        self, training: TrainingView, alpha: Float[Tensor, " tasks"], batch: Mapping[str, Tensor]
    ) -> Float[Tensor, " tasks"]:
        r"""Return :math:`\nabla_\alpha` of the target's loss on one batch.

        Args:
            training: Its network is left with the mixed weights.
            alpha: Where.
            batch: Images and targets.
        """
        deltas = self.ends - self.start
        with torch.enable_grad():
            loss = self.target_loss(training, self.start + alpha @ deltas, batch)
            parameters = list(training.model.parameters())
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        pairs = zip(gradients, parameters, strict=True)
        return deltas @ flat([torch.zeros_like(p) if g is None else g for g, p in pairs])
