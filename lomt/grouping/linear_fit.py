r"""The best small change of the shared weights for a subset of tasks, in the projected space.

Around the weights :math:`\theta^*` of the network trained on all tasks every number (see
:mod:`lomt.grouping.task_scores`) is taken as linear, :math:`f_{ti}(w) = f_{ti} + g_{ti} \cdot w`. For a subset
:math:`S` of tasks

.. math:: \min_w \; \sum_{t \in S} \frac{1}{n_t} \sum_i \ell_t(f_{ti} + g_{ti} \cdot w)
    + \frac{\rho \, s}{2} \lVert w \rVert^2

is a logistic regression where the link is logistic, a ridge regression where it is quadratic, and their sum in a mixed
subset. :math:`s` is the mean squared length of the subset's projected gradients over :math:`d`, so that the strength
:math:`\rho` has no unit.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lomt.grouping.gradient_table import GradientTable
from lomt.grouping.task_scores import losses_of

__all__ = ["FitOptions", "fit_subset", "linear_losses"]

_MOST_STEPS, _TOLERANCE = 50, 1e-8


@dataclass(frozen=True)
class FitOptions:
    r"""How the linear models are fitted.

    Args:
        ridge: :math:`\rho > 0`.
        offset: Whether the numbers :math:`f_{ti}` at the network's own weights enter, as in the derivation.
        Without them
            logistic tasks are fitted as in the authors' code: gradients with randomly flipped signs against the flips
            as labels, with an intercept; quadratic tasks need their residuals and are not affected.
        flip: Without offset, the probability with which a sample keeps its sign.
        seed: Of the flips.

    Raises:
        ValueError: If a number is out of its range.
    """

    ridge: float = 0.01
    offset: bool = True
    flip: float = 0.7
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.ridge > 0:
            raise ValueError(f"Expected `ridge` to be above 0, but got {self.ridge}.")
        if not 0 < self.flip < 1:
            raise ValueError(f"Expected `flip` to be between 0 and 1, but got {self.flip}.")


def fit_subset(
    table: GradientTable, subset: Sequence[str], options: FitOptions | None = None
) -> Float[Tensor, " dimension"]:
    """Return the best change for the subset, by Newton's method in float64.

    Args:
        table: Training samples.
        subset: Names of tasks.
        options: Of the fit.

    Returns:
        (dimension,) float32.
    """
    options = options or FitOptions()
    parts = [_part(table, table.tasks.index(task), options) for task in subset]
    dimension = table.gradients.shape[-1]
    squares = torch.stack([part.gradients[:, :dimension].square().sum(1).mean() for part in parts])
    damping = options.ridge * float(squares.mean()) / dimension
    w = torch.zeros(dimension + 1, dtype=torch.float64)
    ridge = torch.full_like(w, max(damping, 1e-300))
    ridge[-1] = 1e-12  # the intercept is not penalised; unused, it stays at zero
    value = _objective(parts, w, ridge)
    for _ in range(_MOST_STEPS):
        gradient, hessian = _derivatives(parts, w, ridge)
        step = torch.linalg.solve(hessian, gradient)
        scale, fall = 1.0, float(gradient @ step)
        while (tried := _objective(parts, w - scale * step, ridge)) > value - 1e-4 * scale * fall:
            scale /= 2
            if scale < 1e-8:
                break
        w, value = w - scale * step, min(tried, value)
        if fall < _TOLERANCE * max(value, 1e-12):
            break
    return w[:-1].float()


def linear_losses(table: GradientTable, change: Float[Tensor, " dimension"]) -> dict[str, float]:
    """Return every task's mean loss as the linear model has it after a change.

    Args:
        table: Of the samples to judge by.
        change: In the projected space; zeros give the network's own losses.
    """
    values = table.values + table.gradients @ change
    losses = {}
    for row, (task, link) in enumerate(zip(table.tasks, table.links, strict=True)):
        valid = table.is_valid[row]
        losses[task] = float(losses_of(values[row][valid].double(), link).mean())
    return losses


@dataclass(frozen=True)
class _Part:
    """One task's samples: gradients with a last column for the intercept, offsets, and whether it is logistic."""

    gradients: Tensor
    offsets: Tensor
    is_logistic: bool


def _part(table: GradientTable, row: int, options: FitOptions) -> _Part:
    valid = table.is_valid[row]
    gradients, offsets = table.gradients[row][valid].double(), table.values[row][valid].double()
    is_logistic = table.links[row] == "logistic"
    intercept = torch.zeros(len(gradients), 1, dtype=torch.float64)
    if is_logistic and not options.offset:
        # log(1 + exp(-r (r g·w + c))) with the flip r as label: the gradient's two signs cancel, the intercept's
        # do not.
        generator = torch.Generator().manual_seed(options.seed * 100_003 + row)
        keeps = torch.rand(len(gradients), generator=generator) < options.flip
        intercept = torch.where(keeps, 1.0, -1.0).double()[:, None]
        offsets = torch.zeros_like(offsets)
    return _Part(torch.cat([gradients, intercept], dim=1), offsets, is_logistic)


def _objective(parts: Sequence[_Part], w: Tensor, ridge: Tensor) -> float:
    total = (ridge * w.square()).sum() / 2
    for part in parts:
        values = part.offsets + part.gradients @ w
        total = total + losses_of(values, "logistic" if part.is_logistic else "quadratic").mean()
    return float(total)


def _derivatives(parts: Sequence[_Part], w: Tensor, ridge: Tensor) -> tuple[Tensor, Tensor]:
    gradient, hessian = ridge * w, torch.diag(ridge)
    for part in parts:
        values = part.offsets + part.gradients @ w
        p = torch.sigmoid(-values)
        slope, curvature = (-p, p * (1 - p)) if part.is_logistic else (values, torch.ones_like(values))
        count = max(len(values), 1)
        gradient = gradient + part.gradients.T @ slope / count
        hessian = hessian + part.gradients.T @ (part.gradients * curvature[:, None]) / count
    return gradient, hessian
