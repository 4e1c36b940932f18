"""Affinities without training: fit each subset in the projected space, lift the change, look at the losses."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lomt.grouping.affinity import Affinity, affinity_of_subsets
from lomt.grouping.gradient_table import GradientTable
from lomt.grouping.linear_fit import FitOptions, fit_subset
from lomt.grouping.projection import Projection

__all__ = ["Reach", "estimate_affinity", "lifted"]


@dataclass(frozen=True)
class Reach:
    """How far from the network's own weights a fitted change may lead.

    The linear model holds nearby only; a subset with fewer samples than numbers in its gradients would run away.

    Args:
        share: Largest length of the lifted change, as a share of the length of the shared weights; None for no limit.
        length: Bring every lifted change to just this length instead; the authors' image code takes 2.

    Raises:
        ValueError: If a number is not above 0.
    """

    share: float | None = 0.1
    length: float | None = None

    def __post_init__(self) -> None:
        for name in ("share", "length"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"Expected `{name}` to be above 0, but got {value}.")

    def limit(
        self,
        change: Float[Tensor, " dimension"],
        projection: Projection,
        parameters: Mapping[str, nn.Parameter],
    ) -> Float[Tensor, " dimension"]:
        """Return the change, shorter where it leads too far or of the one length asked for."""
        lengths = [float(piece.norm()) for piece in projection.lift(change)]
        own = sum(length**2 for length in lengths) ** 0.5
        if own == 0:
            return change
        if self.length is None and self.share is None:
            return change
        weights = sum(float(parameter.detach().norm()) ** 2 for parameter in parameters.values()) ** 0.5
        longest = min(own, (self.share or 0.0) * weights) if self.length is None else self.length
        limited: Tensor = change * (longest / own) if longest != own else change
        return limited


def estimate_affinity(
    table: GradientTable,
    subsets: Sequence[Sequence[str]],
    losses_of: Callable[[Float[Tensor, " dimension"]], Mapping[str, float]],
    options: FitOptions | None = None,
    *,
    facts: Mapping[str, Any] | None = None,
    on_subset: Callable[[], None] | None = None,
) -> Affinity:
    """Return the affinity that linear models of the subsets show.

    Args:
        table: Training samples.
        subsets: Every pair of tasks is in at least one.
        losses_of: From a change in the projected space to every task's held-out loss, by the lifted network or by
            the linear model itself.
        options: Of the fits.
        facts: Plain JSON values to keep.
        on_subset: Told of every subset that is done.

    References:
        Li, Sharma and Zhang, "Scalable Multitask Learning Using Gradient-based Estimation of Task Affinity", 2024,
        https://arxiv.org/abs/2409.06091, algorithm 1.
    """

    def losses_after(subset: Sequence[str]) -> Mapping[str, float]:
        """Fit a subset and look at its losses."""
        losses = losses_of(fit_subset(table, subset, options))
        if on_subset is not None:
            on_subset()
        return losses

    before = losses_of(torch.zeros(table.gradients.shape[-1]))
    return affinity_of_subsets(
        table.tasks,
        subsets,
        losses_after,
        before,
        method="gradtag",
        facts={**(facts or {}), "before": before},
    )


@contextmanager
def lifted(
    parameters: Mapping[str, nn.Parameter], projection: Projection, change: Float[Tensor, " dimension"]
) -> Iterator[None]:
    r"""Add :math:`P w` to the parameters inside the context; afterwards they are what they were, bit for bit.

    Args:
        parameters: Those that the projection was made for, in its order.
        projection: :math:`P`.
        change: :math:`w`.
    """
    kept = [parameter.detach().clone() for parameter in parameters.values()]
    with torch.no_grad():
        for parameter, piece in zip(parameters.values(), projection.lift(change), strict=True):
            parameter.add_(piece.view(parameter.shape).to(parameter))
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, own in zip(parameters.values(), kept, strict=True):
                parameter.copy_(own)
