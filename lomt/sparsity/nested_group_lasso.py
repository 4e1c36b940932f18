r"""Group lasso with groups inside groups: rows of a stack of matrices, and the columns within each.

A weight of shape (groups, width, channels) holds one outer group :math:`W_t` for each first index, and in it
one inner group :math:`w_{tc}` of ``width`` entries for each channel. The penalty is

.. math:: \Omega(W) = \sum_t \Big( a \lVert W_t \rVert_2 + b \sum_c \lVert w_{tc} \rVert_2 \Big).
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from lomt.sparsity.prox import group_weight

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
    columns = _shrunk(weight, inner, (1,))
    return _shrunk(columns, outer, (1, 2))


def _shrunk(weight: Tensor, threshold: float, dims: tuple[int, ...]) -> Tensor:
    norms = torch.linalg.vector_norm(weight, dim=dims, keepdim=True)
    is_alive = norms > threshold
    return weight * torch.where(is_alive, 1 - threshold / torch.where(is_alive, norms, 1), 0)


class NestedGroupLasso:
    r"""Take a proximal step of the nested penalty after every optimizer step.

    With learning rate :math:`\eta` the thresholds of a weight with cost factor :math:`k` are
    :math:`\eta\lambda k\sqrt{n_g}`, :math:`n_g` the entries of the inner or outer group. The penalty acts through the
    proximal step alone, in the Euclidean metric, in which the composition is exact.

    Under Adam, whose steps are at most about :math:`\eta` an entry whatever the gradient's scale, :math:`\lambda` has
    a meaning of its own: an outer group can be pushed outwards by at most :math:`\eta\sqrt{n_g}` a step and loses
    up to :math:`2\eta\lambda k\sqrt{n_g}`, so that nothing lives on where :math:`\lambda k` is above one half.

    Args:
        weights: Parameters of shape (groups, width, channels), by name; changed in place.
        factors: Cost factor :math:`k \ge 0` of each.
        lambda_: Strength :math:`\lambda \ge 0`; may be set anew at any time.

    Raises:
        ValueError: If there are no weights or `lambda_` is negative or not finite.

    Example:
        >>> weight = nn.Parameter(torch.randn(4, 8, 16))
        >>> optimizer = torch.optim.Adam([weight])
        >>> NestedGroupLasso({"blocks.0": weight}, {"blocks.0": 1.0}, lambda_=0.1).attach(optimizer)
    """

    def __init__(
        self, weights: Mapping[str, nn.Parameter], factors: Mapping[str, float], lambda_: float
    ) -> None:
        if not weights:
            raise ValueError("Expected `weights` to name at least one parameter, but got none.")
        self._weights, self._factors = dict(weights), dict(factors)
        self.lambda_ = lambda_
        self.steps = 0
        self.last_alive: dict[str, Tensor] = {
            name: torch.zeros(len(weight), dtype=torch.long, device=weight.device)
            for name, weight in self._weights.items()
        }
        self._handle: RemovableHandle | None = None

    @property
    def lambda_(self) -> float:
        """Strength of the penalty."""
        return self._lambda

    @lambda_.setter
    def lambda_(self, value: float) -> None:
        if not 0 <= value < math.inf:
            raise ValueError(f"Expected `lambda_` to be finite and at least 0, but got {value}.")
        self._lambda = float(value)

    def attach(self, optimizer: Any) -> None:
        """Follow each of the optimizer's steps from now on.

        Args:
            optimizer: A torch optimizer that holds all the weights.

        Raises:
            ValueError: If it does not.
        """
        known = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        missing = [name for name, weight in self._weights.items() if id(weight) not in known]
        if missing:
            raise ValueError(
                f"Expected `optimizer` to hold every weight, but got one without `{missing[0]}`. "
                "Give it these parameters."
            )
        if self._handle is not None:
            self._handle.remove()
        self._handle = optimizer.register_step_post_hook(self._after_step)

    @torch.no_grad()
    def alive(self) -> dict[str, Float[Tensor, " groups"]]:
        """Return by weight the share of its channels that is not zero, 0 to 1, for each outer group."""
        return {name: (weight != 0).any(1).float().mean(1) for name, weight in self._weights.items()}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return what a resumed run needs: when each group was last alive, lambda and the count of steps."""
        return dict(self.last_alive), {"lambda": self.lambda_, "steps": self.steps}

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Take over what `state` gave."""
        for name, values in tensors.items():
            self.last_alive[name].copy_(values)
        self.lambda_, self.steps = facts["lambda"], facts["steps"]

    @torch.no_grad()
    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        found_inf = getattr(optimizer, "found_inf", None)  # set where a gradient scaler skips the step
        if found_inf is not None and bool(found_inf):
            return
        self.steps += 1
        rates = {id(p): float(group["lr"]) for group in optimizer.param_groups for p in group["params"]}
        for name, weight in self._weights.items():
            strength = rates[id(weight)] * self.lambda_ * self._factors[name]
            _, width, channels = weight.shape
            shrunk = nested_soft_threshold(
                weight, strength * group_weight(width), strength * group_weight(width * channels)
            )
            weight.copy_(shrunk)
            self.last_alive[name][(shrunk != 0).any(2).any(1)] = self.steps
