"""The proximal steps of one layer, in place and with few passes over its memory.

The weight is seen as in `lomt.structure.group_view`: (blocks, reduced, channels, kernel). Every pass runs over
long contiguous rows into scratch memory that all layers share; only short vectors, one value a group, are made
anew. What these passes cannot settle is left to the exact functions of `lomt.sparsity.prox`.
"""

import math

import torch
from torch import Tensor

from lomt.sparsity.prox import group_soft_threshold, group_weight, solve_norms
from lomt.structure import LayerGroups, group_view

__all__ = ["Scratch", "adam_step_", "euclidean_step_"]

_MOST_SWEEPS = 5
# Above this share of unsettled groups another sweep over the layer is cheaper than gathering them.
_FEW = 0.03
# Closer to the threshold than this, sums in float32 cannot tell whether a group is zero.
_ZERO_MARGIN = 1e-4


class Scratch:
    """Memory for a layer's intermediate values, kept from step to step and grown when needed."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[int, torch.dtype, torch.device], Tensor] = {}

    def take(self, slot: int, like: Tensor) -> Tensor:
        """Return uninitialised memory shaped as `like`; the same `slot` is the same memory."""
        key = (slot, like.dtype, like.device)
        buffer = self._buffers.get(key)
        if buffer is None or buffer.numel() < like.numel():
            buffer = self._buffers[key] = torch.empty(like.numel(), dtype=like.dtype, device=like.device)
        return buffer[: like.numel()].view(like.shape)


def euclidean_step_(weight: Tensor, groups: LayerGroups, strength: float, scratch: Scratch) -> None:
    r"""Apply `group_soft_threshold` in place, with the threshold `strength` times the groups' weight.

    Args:
        weight: The layer's weight in any floating dtype; computed in float32 at least.
        groups: Its channel groups.
        strength: :math:`\eta\lambda > 0`.
        scratch: Shared memory.
    """
    work = _workable(weight)
    tau = strength * group_weight(groups.size)
    if _are_squares_safe(work.dtype, strength, tau):
        view = group_view(work, groups.axis, groups.conv_groups)
        norm = _sums(torch.mul(view, view, out=scratch.take(0, view))).sqrt_()
        _rows_of(view).mul_(_spread((1 - tau / norm).clamp_(min=0), view))
    else:
        work = group_soft_threshold(work, tau, groups.axis, groups.conv_groups)
    if work is not weight:
        weight.copy_(work)


def adam_step_(
    weight: Tensor,
    second_moment: Tensor,
    groups: LayerGroups,
    strength: float,
    correction: float,
    eps: float,
    theta: Tensor | None,
    scratch: Scratch,
) -> Tensor:
    r"""Apply the proximal step in Adam's metric, :math:`d = \sqrt{v / c} + \epsilon`, in place.

    Args:
        weight: The layer's weight in any floating dtype; computed in float32 at least.
        second_moment: Adam's :math:`v`, shaped as `weight`.
        groups: The layer's channel groups.
        strength: :math:`\eta\lambda > 0`.
        correction: The bias correction :math:`c`; 1 for none.
        eps: :math:`\epsilon`.
        theta: Norms of the groups after the step before, where Newton starts; None on the first step.
        scratch: Shared memory.

    Returns:
        Norms of the groups after this step, zero for groups that are zero.
    """
    work = _workable(weight)
    moment = second_moment
    if moment.dtype != work.dtype or moment.stride() != work.stride():
        moment = torch.empty_like(work).copy_(second_moment)
    view = group_view(work, groups.axis, groups.conv_groups)
    # Scaling d and tau alike changes nothing, so that c can move from every entry of v to eps and tau.
    root = math.sqrt(correction)
    tau = strength * group_weight(groups.size) * root
    metric = torch.sqrt(group_view(moment, groups.axis, groups.conv_groups), out=scratch.take(0, view))
    metric.add_(eps * root)
    start = _norms(view, scratch) if theta is None else theta.to(view).view(view.shape[0], view.shape[2])
    norms = _solve(view, metric, tau, start, scratch)
    # x = w / (1 + (tau / theta) / d), which is zero where theta is
    ratio = (tau / norms.double()).to(norms.dtype)
    divisor = _rows_of(scratch.take(1, view))
    torch.addcdiv(ratio.new_ones(()), _spread(ratio, view), _rows_of(metric), out=divisor)
    _rows_of(view).div_(divisor)
    if work is not weight:
        weight.copy_(work)
    return norms.flatten()


def _solve(view: Tensor, metric: Tensor, tau: float, theta: Tensor, scratch: Scratch) -> Tensor:
    for _ in range(_MOST_SWEEPS):
        theta, is_settled = _sweep(view, metric, tau, theta, scratch)
        unsettled = is_settled.numel() - int(is_settled.sum())
        if unsettled <= _FEW * is_settled.numel():
            break
    if unsettled:
        where = (~is_settled).nonzero(as_tuple=True)
        rows, denominators = (x.transpose(1, 2)[where].flatten(1).double() for x in (view, metric))
        theta[where] = solve_norms(rows, denominators, tau).to(theta.dtype)
    return theta


def _sweep(
    view: Tensor, metric: Tensor, tau: float, theta: Tensor, scratch: Scratch
) -> tuple[Tensor, Tensor]:
    r"""Take one Newton step for all groups and tell for which ones it was the last.

    The step is that of `solve_norms`. With the mean :math:`m` of :math:`\tau / (d_i\theta + \tau)`, weighted
    by :math:`a_i^2`, the relative error left after a step of relative size :math:`s` is at most about
    :math:`\tfrac32 s^2 m`, its effect on the optimality condition (in units of :math:`\lVert d \odot w \rVert`) again
    :math:`m` times as large; and :math:`\lVert d \odot w \rVert \ge \tau / m` shows that the group is not zero.
    """
    weights, denominators = _rows_of(view), _rows_of(metric)
    inverse, terms = _rows_of(scratch.take(1, view)), scratch.take(2, view)
    torch.addcmul(theta.new_full((), tau), denominators, _spread(theta, view), out=inverse)
    torch.div(denominators, inverse, out=inverse)
    products = torch.mul(weights, inverse, out=_rows_of(terms))
    products.mul_(products)
    total = _sums(terms)
    products.mul_(inverse)
    slope = _sums(terms)

    step = theta + total / slope * (total.sqrt() - 1)
    mean = 1 - theta * slope / total
    size = (step - theta).abs() / step
    is_zero = (theta == 0) & (total < 1 - _ZERO_MARGIN)
    is_exact = 1.5 * (size * mean).square() <= torch.finfo(theta.dtype).eps
    is_positive = (theta > 0) & (step > 0) & (mean < 1 - _ZERO_MARGIN) & step.isfinite() & slope.isfinite()
    is_settled = is_zero | (is_positive & (size < 0.1) & is_exact)
    moved = torch.where((step > 0) & step.isfinite() & ~is_zero, step, 0)
    return moved, is_settled


def _norms(view: Tensor, scratch: Scratch) -> Tensor:
    return _sums(torch.mul(view, view, out=scratch.take(0, view))).sqrt_()


def _sums(view: Tensor) -> Tensor:
    sums = _rows_of(view).sum(dim=1)
    return sums if view.shape[3] == 1 else sums.unflatten(1, view.shape[2:]).sum(dim=2)


def _rows_of(view: Tensor) -> Tensor:
    return view.flatten(2)


def _spread(values: Tensor, view: Tensor) -> Tensor:
    """Return one value a group, (blocks, channels), as rows that multiply those of `view`."""
    blocks, _, channels, kernel = view.shape
    if kernel == 1:
        return values.unsqueeze(1)
    return values.unsqueeze(2).expand(blocks, channels, kernel).reshape(blocks, 1, channels * kernel)


def _workable(weight: Tensor) -> Tensor:
    work = weight if weight.dtype in (torch.float32, torch.float64) else weight.float()
    is_dense = work.is_contiguous() or work.movedim(1, -1).is_contiguous()
    return work if is_dense else work.contiguous()


def _are_squares_safe(dtype: torch.dtype, strength: float, tau: float) -> bool:
    # Below the lower bound squares that underflow could matter; above the upper one those that overflow, since
    # an infinite norm means a factor of one.
    limits = torch.finfo(dtype)
    return math.sqrt(limits.tiny) / limits.eps <= strength and tau <= math.sqrt(limits.max) * limits.eps / 4
