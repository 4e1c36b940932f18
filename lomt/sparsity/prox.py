r"""The proximal operators of the group lasso, as pure functions.

Both minimise :math:`\tfrac12 \sum_i d_i (x_i - w_i)^2 + \tau \lVert x \rVert_2` for every channel group
:math:`w` on its own: with :math:`d = 1` in the Euclidean metric, with :math:`d` the denominators of the step
in Adam's. They scale by powers of two inside, so nothing overflows or underflows on the way.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from lomt.structure import Axis, expand_groups, group_rows

__all__ = ["adam_group_soft_threshold", "group_soft_threshold", "group_weight", "solve_norms"]

_MOST_STEPS = 100


def group_weight(size: int) -> float:
    r"""Return :math:`\sqrt{n_g}`, the weight of a group of `size` entries, for penalty and step alike."""
    return math.sqrt(size)


def group_soft_threshold(
    weight: Float[Tensor, "out in *kernel"],
    tau: float | Float[Tensor, "..."],
    axis: Axis,
    conv_groups: int = 1,
) -> Float[Tensor, "out in *kernel"]:
    r"""Shrink every channel group towards zero, and to zero below the threshold.

    .. math:: w_g \leftarrow \max(0, 1 - \tau / \lVert w_g \rVert_2) \, w_g

    where :math:`w_g` are the entries of `weight` of one channel along `axis`. A group becomes zero exactly
    when its computed norm is at most :math:`\tau`. Differentiable in `weight` and `tau`.

    Args:
        weight: Weight stored as (out, in / `conv_groups`, *kernel); not modified.
        tau: Threshold :math:`\tau \ge 0` in the unit of `weight`: one number, or a tensor with one a group.
        axis: Which channels form the groups.
        conv_groups: The convolution's own `groups`.

    Returns:
        The shrunk weight, of the same kind as `weight`.

    Raises:
        ValueError: If `tau` is a negative number.

    Example:
        >>> group_soft_threshold(torch.tensor([[3.0, 0.3], [4.0, 0.4]]), 2.5, "in")
        tensor([[1.5000, 0.0000],
                [2.0000, 0.0000]])
    """
    _check_threshold(tau)
    values = weight if weight.dtype in (torch.float32, torch.float64) else weight.float()
    norm = _norms(group_rows(values, axis, conv_groups))
    is_alive = norm > tau
    scale = torch.where(is_alive, 1 - tau / torch.where(is_alive, norm, 1), 0)
    return (values * expand_groups(scale, weight, axis, conv_groups)).to(weight.dtype)


@torch.no_grad()
def adam_group_soft_threshold(
    weight: Float[Tensor, "out in *kernel"],
    denominator: Float[Tensor, "out in *kernel"],
    tau: float,
    axis: Axis,
    conv_groups: int = 1,
) -> Float[Tensor, "out in *kernel"]:
    r"""Shrink every channel group in the metric of Adam's step, and to zero below the threshold.

    .. math:: x_i = w_i \, d_i\theta / (d_i\theta + \tau), \qquad \theta = \lVert x \rVert_2,

    and :math:`x = 0` exactly when the computed :math:`\lVert d \odot w \rVert_2 \le \tau`. Works in float64.

    Args:
        weight: Weight stored as (out, in / `conv_groups`, *kernel); not modified.
        denominator: :math:`d > 0`, Adam's ``sqrt(exp_avg_sq) + eps``.
        tau: Threshold :math:`\tau \ge 0` in the unit of `weight` times `denominator`.
        axis: Which channels form the groups.
        conv_groups: The convolution's own `groups`.

    Returns:
        The shrunk weight, of the same kind as `weight`.

    Raises:
        ValueError: If `tau` is negative.

    References:
        Deleu and Bengio, "Structured Sparsity Inducing Adaptive Optimizers for Deep Learning", 2021,
        https://arxiv.org/abs/2102.03869.
    """
    _check_threshold(tau)
    if tau == 0:
        return weight.clone()
    values, metric = weight.double(), denominator.double()
    norms = solve_norms(group_rows(values, axis, conv_groups), group_rows(metric, axis, conv_groups), tau)
    theta = expand_groups(norms, weight, axis, conv_groups)
    shrunk = values / (1 + (tau / theta) / metric)
    return torch.where(theta > 0, shrunk, 0).to(weight.dtype)


def solve_norms(
    rows: Float[Tensor, "groups size"], metric: Float[Tensor, "groups size"], tau: float
) -> Float[Tensor, " groups"]:
    r"""Return :math:`\theta = \lVert x \rVert_2` of every minimiser :math:`x` in Adam's metric.

    .. math:: \sum_i a_i^2 = 1, \qquad a_i = w_i d_i / (d_i\theta + \tau)

    is solved by Newton steps on the inverse root of its left side, which is concave and nearly linear in
    :math:`\theta`, as in trust-region methods: one step is exact where :math:`d` is uniform within the group.
    Bounds known before and found on the way keep every step inside.

    Args:
        rows: The groups' weights :math:`w`, float64.
        metric: :math:`d > 0`, float64.
        tau: Threshold :math:`\tau > 0`.

    Returns:
        One norm a group; zero exactly when :math:`\lVert d \odot w \rVert_2 \le \tau`.

    References:
        Moré and Sorensen, "Computing a Trust Region Step", 1983, https://doi.org/10.1137/0904038, section 3.
    """
    unit = _power_of_two(rows)
    metric_unit = _power_of_two(metric)
    rows, metric = rows / unit, metric / metric_unit
    threshold = tau / unit / metric_unit
    excess = _norms(rows * metric)[:, None] - threshold
    theta = torch.zeros_like(excess)
    alive = (excess > 0).squeeze(1)
    if alive.any():
        rows, metric, threshold, excess = (x[alive] for x in (rows, metric, threshold, excess))
        theta[alive] = _newton(rows, metric, threshold, excess)
    return (theta * unit).squeeze(1)


def _newton(rows: Tensor, metric: Tensor, tau: Tensor, excess: Tensor) -> Tensor:
    # excess / max(d) <= theta, and theta <= excess / min(d) as well as theta <= |w|
    lower = excess / metric.amax(dim=1, keepdim=True)
    upper = torch.minimum(_norms(rows)[:, None], excess / metric.amin(dim=1, keepdim=True)).maximum(lower)
    theta = lower
    tolerance = 4 * torch.finfo(theta.dtype).eps
    for _ in range(_MOST_STEPS):
        inverse = metric / (metric * theta + tau)
        terms = (rows * inverse).square()
        total = terms.sum(dim=1, keepdim=True)
        slope = (terms * inverse).sum(dim=1, keepdim=True)
        lower = torch.where(total >= 1, theta, lower)
        upper = torch.where(total <= 1, theta, upper)
        step = theta + total / slope * (total.sqrt() - 1)
        is_inside = (step >= lower) & (step <= upper)
        moved = torch.where(is_inside, step, lower.sqrt() * upper.sqrt())
        is_settled = ((total - 1).abs() <= tolerance) | (moved == theta) | (upper <= lower)
        theta = torch.where(is_settled, theta, moved)
        if is_settled.all():
            break
    return theta


def _norms(rows: Tensor) -> Tensor:
    unit = _power_of_two(rows)
    sums = (rows / unit).square().sum(dim=1)
    # The gradient of the root at zero is infinite; a group of zeros has none.
    is_zero = sums == 0
    return torch.where(is_zero, 0, torch.where(is_zero, 1, sums).sqrt()) * unit.squeeze(1)


def _power_of_two(rows: Tensor) -> Tensor:
    """Return for each row a power of two near its largest entry; dividing by it changes no digit."""
    largest = rows.detach().abs().amax(dim=1, keepdim=True)
    mantissa, _ = torch.frexp(largest)
    unit = largest / mantissa
    return torch.where((largest > 0) & unit.isfinite(), unit, 1)


def _check_threshold(tau: float | Tensor) -> None:
    if not isinstance(tau, Tensor) and not tau >= 0:
        raise ValueError(f"Expected `tau` to be at least 0, but got {tau}.")
