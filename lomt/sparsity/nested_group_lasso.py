r"""Group lasso with groups inside groups: rows of a stack of matrices, and the columns within each.

A weight of shape (groups, width, channels) holds one outer group :math:`W_t` for each first index, and in it
one inner group :math:`w_{tc}` of ``width`` entries for each channel. The penalty is

.. math:: \Omega(W) = \sum_t \Big( a \lVert W_t \rVert_2 + b \sum_c \lVert w_{tc} \rVert_2 \Big).
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from lomt.sparsity.prox import group_weight
from lomt.sparsity.proximal_penalty import Metric, ProximalPenalty, second_moment

__all__ = ["NestedGroupLasso", "nested_soft_threshold"]


def nested_soft_threshold(
    weight: Float[Tensor, "groups width channels"], inner: float, outer: float
) -> Float[Tensor, "groups width channels"]:
    r"""Shrink the inner groups, then the outer ones: the proximal operator of the tree-structured penalty.

    .. math:: \operatorname{argmin}_X \tfrac12 \lVert X - W \rVert^2
        + \tau_i \sum_{tc} \lVert x_{tc} \rVert_2 + \tau_o \sum_t \lVert X_t \rVert_2

    is exact as the composition of the two shrinkages because every inner group lies within one outer group;
    from the leaves to the root, the other order is wrong.

    Args:
        weight: One matrix an outer group; not modified.
        inner: :math:`\tau_i \ge 0`, for the columns of each matrix.
        outer: :math:`\tau_o \ge 0`, for each matrix.

    Raises:
        ValueError: If a threshold is negative.

    Example:
        >>> nested_soft_threshold(torch.tensor([[[3.0, 0.5], [4.0, 0.0]]]), 1.0, 2.0)
        tensor([[[1.2000, 0.0000],
                 [1.6000, 0.0000]]])

    References:
        Jenatton, Mairal, Obozinski, Bach, "Proximal Methods for Hierarchical Sparse Coding", 2011,
        https://arxiv.org/abs/1009.2139, proposition 1 and algorithm 3.
    """
    for name, value in (("inner", inner), ("outer", outer)):
        if not value >= 0:
            raise ValueError(f"Expected `{name}` to be at least 0, but got {value}.")
    return _nested(weight, inner, outer)


def _nested(weight: Tensor, inner: float | Tensor, outer: float | Tensor) -> Tensor:
    """Shrink with thresholds for all outer groups, or (groups, 1, 1) of their own."""
    return _shrunk(_shrunk(weight, inner, (1,)), outer, (1, 2))


def _shrunk(weight: Tensor, threshold: float | Tensor, dims: tuple[int, ...]) -> Tensor:
    norms = torch.linalg.vector_norm(weight, dim=dims, keepdim=True)
    is_alive = norms > threshold
    return weight * torch.where(is_alive, 1 - threshold / torch.where(is_alive, norms, 1), 0)


class NestedGroupLasso(ProximalPenalty):
    r"""Take a proximal step of the nested penalty after every optimizer step.

    With learning rate :math:`\eta` the thresholds of a weight with cost factor :math:`k` are
    :math:`\eta\lambda k\sqrt{n_g} / d`, :math:`n_g` the entries of the inner or outer group. In the Euclidean metric
    :math:`d` is 1. In Adam's it is the root mean square, over an outer group, of what Adam has just divided its step
    by: one number for the group, so that the composition stays exact. The penalty acts through the proximal step alone.

    A group that gains the loss less than about :math:`\lambda k\sqrt{n_g}` for each unit of its norm then goes to zero.
    Under Adam that does not hold in the Euclidean metric: a step is about :math:`\eta` an entry however small the
    gradient is, so that groups live by how steady their gradient is and not by its size, and all die where
    :math:`\lambda k` passes one half.

    Args:
        weights: Parameters of shape (groups, width, channels), by name; changed in place.
        factors: Cost factor :math:`k \ge 0` of each.
        lambda_: Strength :math:`\lambda \ge 0`; may be set anew at any time.
        metric: ``"euclidean"`` for optimizers whose step is the gradient's multiple, ``"adam"`` for torch's Adam and
            AdamW.
        growth: Factor on :math:`\lambda` after every step.

    Raises:
        ValueError: If there are no weights, or `lambda_` is negative or not finite.
        UnknownNameError: If there is no such metric.

    Example:
        >>> weight = nn.Parameter(torch.randn(4, 8, 16))
        >>> optimizer = torch.optim.Adam([weight])
        >>> NestedGroupLasso({"blocks.0": weight}, {"blocks.0": 1.0}, lambda_=0.1).attach(optimizer)
    """

    def __init__(
        self,
        weights: Mapping[str, nn.Parameter],
        factors: Mapping[str, float],
        lambda_: float,
        *,
        metric: Metric = "euclidean",
        growth: float = 1.0,
    ) -> None:
        if not weights:
            raise ValueError("Expected `weights` to name at least one parameter, but got none.")
        super().__init__(lambda_, metric)
        self._weights, self._factors, self._growth = dict(weights), dict(factors), growth
        self.steps = 0
        self.last_alive: dict[str, Tensor] = {
            name: torch.zeros(len(weight), dtype=torch.long, device=weight.device)
            for name, weight in self._weights.items()
        }

    @torch.no_grad()
    def penalty(self) -> Float[Tensor, ""]:
        """Return lambda times the penalty, cost factors included, for logs; it has no gradient."""
        terms = []
        for name, weight in self._weights.items():
            values, (_, width, channels) = weight.double(), weight.shape
            inner = group_weight(width) * torch.linalg.vector_norm(values, dim=1).sum()
            outer = group_weight(width * channels) * torch.linalg.vector_norm(values, dim=(1, 2)).sum()
            terms.append(self._factors[name] * (inner + outer))
        return self.lambda_ * torch.stack(terms).sum()

    @torch.no_grad()
    def alive(self) -> dict[str, Float[Tensor, " groups"]]:
        """Return by weight the share of its channels that is not zero, 0 to 1, for each outer group."""
        return {name: (weight != 0).any(1).float().mean(1) for name, weight in self._weights.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs: when each group was last alive, lambda and the count of steps."""
        return {"last_alive": dict(self.last_alive), "lambda_": self.lambda_, "steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        for name, values in state["last_alive"].items():
            self.last_alive[name].copy_(values)
        self.lambda_, self.steps = state["lambda_"], state["steps"]

    def _parameters(self) -> Iterable[tuple[str, nn.Parameter]]:
        return self._weights.items()

    @torch.no_grad()
    def _shrink(self, optimizer: Optimizer) -> None:
        self.steps += 1
        owner = {id(p): group for group in optimizer.param_groups for p in group["params"]}
        for name, weight in self._weights.items():
            options = owner[id(weight)]
            strength: float | Tensor = float(options["lr"]) * self.lambda_ * self._factors[name]
            if self.metric == "adam":
                strength = strength / _divisors(name, optimizer.state[weight], options)
            _, width, channels = weight.shape
            shrunk = _nested(
                weight, strength * group_weight(width), strength * group_weight(width * channels)
            )
            weight.copy_(shrunk)
            self.last_alive[name][(shrunk != 0).any(2).any(1)] = self.steps
        self.lambda_ *= self._growth


def _divisors(name: str, state: Mapping[str, Any], options: Mapping[str, Any]) -> Tensor:
    """Return what Adam divides each outer group's step by, in the root mean square, (groups, 1, 1)."""
    moment = second_moment(name, state, options) / (1 - options["betas"][1] ** float(state["step"]))
    divisors: Tensor = (moment.sqrt() + options["eps"]).square().mean((1, 2), keepdim=True).sqrt()
    return divisors
