"""Weights that bring the tasks' gradients to like lengths."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lomt.training.weighting.weighting import Weighting

__all__ = ["GradNorm"]


class GradNorm(Weighting):
    r"""Learn weights so that each weighted gradient has the length its task's training speed calls for.

    .. math:: \min_a \sum_t \big| G_t - \bar G \, r_t^{\alpha} \big|, \qquad G_t = a_t \lVert \nabla_\theta L_t \rVert,
        \quad r_t = \frac{L_t / L_t(0)}{\operatorname{mean}_i L_i / L_i(0)}

    with the mean length :math:`\bar G` taken as constant. The weights are brought back to the sum of the recipe's after
    every step. :math:`\theta` are all shared weights here; the paper takes the last shared layer to save time, but
    decoders at different depths have no such layer in common.

    Args:
        weights: First weights by task name, above 0.
        alpha: :math:`\alpha \ge 0`, how strongly speeds are evened out.

    Raises:
        ValueError: If a weight is not above 0 or ``alpha`` is negative.

    References:
        GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep Multitask Networks, Chen et al., 2018,
        https://arxiv.org/abs/1711.02257, equations 1 and 2.
    """

    wants_gradient_norms = True
    first: Tensor

    def __init__(self, weights: Mapping[str, float], *, alpha: float = 1.5) -> None:
        super().__init__()
        for task, weight in weights.items():
            if not weight > 0:
                raise ValueError(
                    f"Expected the weight of task `{task}` to be above 0 with GradNorm, but got {weight}."
                )
        if not alpha >= 0:
            raise ValueError(f"Expected `alpha` to be at least 0, but got {alpha}.")
        self._tasks, self._alpha, self._total = tuple(weights), alpha, sum(weights.values())
        self.learned = nn.Parameter(torch.tensor(list(weights.values())))
        self.register_buffer("first", torch.full((len(weights),), torch.nan))

    def coefficients(self) -> dict[str, Tensor]:
        """Return the weights at their fixed sum."""
        with torch.no_grad():
            self.learned.clamp_(min=1e-6)
            self.learned.mul_(self._total / self.learned.sum())
        return dict(zip(self._tasks, self.learned.detach().clone(), strict=True))

    def observe(self, losses: Mapping[str, Tensor]) -> None:
        """The losses come with the gradients' lengths."""

    def observe_norms(self, norms: Mapping[str, Tensor], losses: Mapping[str, Tensor]) -> None:
        """Set the gradient, from the lengths of the unweighted losses' gradients."""
        now = torch.stack([losses[task].detach() for task in self._tasks]).to(self.first)
        if bool(self.first.isnan().any()):
            self.first.copy_(now.clamp_min(1e-12))
        lengths = torch.stack([norms[task] for task in self._tasks]).to(self.first)
        weighted = self.learned.detach() * lengths
        speeds = now / self.first
        wanted = weighted.mean() * (speeds / speeds.mean().clamp_min(1e-12)) ** self._alpha
        self.learned.grad = torch.sign(weighted - wanted) * lengths
