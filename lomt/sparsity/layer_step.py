"""The proximal steps of a few layers at once, in place and with few passes over their memory.

Weights are seen as in `lomt.structure.group_view`: (blocks, reduced, channels, kernel). Every pass runs over
long contiguous rows into scratch memory. What there is once a group, such as norms, lies in one vector for all
the layers, so that small layers share the cost of working on it. What these passes cannot settle is left to
the exact functions of `lomt.sparsity.prox`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lomt.sparsity.prox import group_soft_threshold, group_weight, solve_norms
from lomt.structure import LayerGroups, group_view

__all__ = ["LayerStep", "Scratch", "adam_steps_", "euclidean_steps_"]

_MOST_SWEEPS = 5
# Above this share of unsettled groups another sweep over the layers is cheaper than gathering them.
_FEW = 0.03
# Weights handled at a time; the intermediate values of that many stay in the processor's cache.
_CHUNK = 2**18
# Closer to the threshold than this, sums in float32 cannot tell whether a group is zero.
_ZERO_MARGIN = 1e-4


@dataclass(frozen=True)
class LayerStep:
    r"""One layer's part in a proximal step.

    Args:
        weight: The layer's weight in any floating dtype, changed in place; computed in float32 at least.
        groups: Its channel groups.
        strength: :math:`\eta\lambda > 0`, learning rate times lambda.
        second_moment: Adam's :math:`v`, shaped as `weight`. This and what follows is for Adam's metric, in which
            :math:`d = \sqrt{v / c} + \epsilon`.
        correction: The bias correction :math:`c`; 1 for none.
        eps: :math:`\epsilon`.
        norms: Norms of the groups after the step before, where Newton starts; None on the first step.
    """

    weight: Tensor
    groups: LayerGroups
    strength: float
    second_moment: Tensor | None = None
    correction: float = 1.0
    eps: float = 0.0
    norms: Tensor | None = None

    @property
    def tau(self) -> float:
        """The threshold."""
        return self.strength * group_weight(self.groups.size)


class Scratch:
    """Memory for intermediate values, kept from step to step and grown when needed."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}

    def take(self, purpose: str, like: Tensor) -> Tensor:
        """Return uninitialised contiguous memory shaped as `like`; the same `purpose` is the same memory."""
        key = (purpose, like.dtype, like.device)
        buffer = self._buffers.get(key)
        if buffer is None or buffer.numel() < like.numel():
            buffer = self._buffers[key] = torch.empty(like.numel(), dtype=like.dtype, device=like.device)
        return buffer[: like.numel()].view(like.shape)


def euclidean_steps_(layers: Sequence[LayerStep], scratch: Scratch) -> None:
    """Apply `group_soft_threshold` to every layer in place."""
    safe = []
    for layer in layers:
        work = _workable(layer.weight)
        if not _are_squares_safe(work.dtype, layer.strength, layer.tau):
            groups = layer.groups
            layer.weight.copy_(group_soft_threshold(work, layer.tau, groups.axis, groups.conv_groups))
        else:
            safe.append((layer, work, group_view(work, layer.groups.axis, layer.groups.conv_groups)))
    if not safe:
        return
    views = [view for _, _, view in safe]
    norms = _norms(views, scratch)
    factors = (1 - _taus([layer.tau for layer, _, _ in safe], views, norms) / norms).clamp_(min=0)
    for (layer, work, view), factor in zip(safe, _cut(factors, views), strict=True):
        _rows(view).mul_(_spread(factor, view))
        if work is not layer.weight:
            layer.weight.copy_(work)


def adam_steps_(layers: Sequence[LayerStep], scratch: Scratch) -> list[Tensor]:
    """Apply `adam_group_soft_threshold` to every layer in place.

    Returns:
        Norms of the groups after this step, layer by layer; zero for groups that are zero.
    """
    works = [_workable(layer.weight) for layer in layers]
    views = [_view(work, layer) for work, layer in zip(works, layers, strict=True)]
    metrics = _metrics(layers, works, scratch)
    # Scaling d and tau alike changes nothing, so that c can move from every entry of v to eps and tau.
    taus = [layer.tau * math.sqrt(layer.correction) for layer in layers]
    norms = _solve(views, metrics, taus, _starts(layers, views, scratch), scratch)
    # x = w / (1 + (tau / theta) / d), which is zero where theta is
    ratios = (_taus(taus, views, norms.double()) / norms).to(norms.dtype)
    one = norms.new_ones(())
    for layer, work, view, metric, ratio in zip(
        layers, works, views, metrics, _cut(ratios, views), strict=True
    ):
        spread = _spread(ratio, view)
        for rows, d in zip(_chunks(view), _chunks(metric), strict=True):
            rows.div_(torch.addcdiv(one, spread, d, out=scratch.take("u", rows)))
        if work is not layer.weight:
            layer.weight.copy_(work)
    return list(norms.split([layer.groups.count for layer in layers]))


def _metrics(layers: Sequence[LayerStep], works: Sequence[Tensor], scratch: Scratch) -> list[Tensor]:
    metrics = []
    for index, (layer, work) in enumerate(zip(layers, works, strict=True)):
        moment = layer.second_moment
        assert moment is not None
        if moment.dtype != work.dtype or moment.stride() != work.stride():
            moment = torch.empty_like(work).copy_(moment)
        view = _view(moment, layer)
        metric = torch.sqrt(view, out=scratch.take(f"d{index}", view))
        metrics.append(metric.add_(layer.eps * math.sqrt(layer.correction)))
    return metrics


def _starts(layers: Sequence[LayerStep], views: Sequence[Tensor], scratch: Scratch) -> Tensor:
    known = [
        _norms([view], scratch) if layer.norms is None else layer.norms.to(view)
        for layer, view in zip(layers, views, strict=True)
    ]
    return torch.cat(known)


def _solve(
    views: Sequence[Tensor], metrics: Sequence[Tensor], taus: Sequence[float], norms: Tensor, scratch: Scratch
) -> Tensor:
    for _ in range(_MOST_SWEEPS):
        total, slope = _sweep(views, metrics, taus, norms, scratch)
        norms, is_settled = _newton(norms, total, slope)
        unsettled = is_settled.numel() - int(is_settled.sum())
        if unsettled <= _FEW * is_settled.numel():
            break
    if unsettled:
        for view, metric, tau, theta, settled in zip(
            views, metrics, taus, _cut(norms, views), _cut(is_settled, views), strict=True
        ):
            where = (~settled).nonzero(as_tuple=True)
            if where[0].numel():
                rows, denominators = (x.transpose(1, 2)[where].flatten(1).double() for x in (view, metric))
                theta[where] = solve_norms(rows, denominators, tau).to(theta.dtype)
    return norms


def _sweep(
    views: Sequence[Tensor], metrics: Sequence[Tensor], taus: Sequence[float], norms: Tensor, scratch: Scratch
) -> tuple[Tensor, Tensor]:
    r"""Return :math:`\sum_i a_i^2` and :math:`\sum_i a_i^2 / u_i` of all groups for the norms :math:`\theta`.

    :math:`u_i = \theta + \tau / d_i` and :math:`a_i = w_i / u_i`.
    """
    total, slope = torch.empty_like(norms), torch.empty_like(norms)
    one = norms.new_ones(())
    for view, metric, tau, theta, total_, slope_ in zip(
        views, metrics, taus, *(_cut(x, views) for x in (norms, total, slope)), strict=True
    ):
        start = _spread(theta, view)
        sums: list[tuple[Tensor, Tensor]] = []
        for rows, d in zip(_chunks(view), _chunks(metric), strict=True):
            u, a = scratch.take("u", rows), scratch.take("a", rows)
            torch.addcdiv(start, one, d, value=tau, out=u)
            torch.div(rows, u, out=a)
            sums.append((a.mul_(a).sum(dim=1), a.div_(u).sum(dim=1)))
        for out, parts in zip((total_, slope_), zip(*sums, strict=True), strict=True):
            _gather(parts, out)
    return total, slope


def _newton(norms: Tensor, total: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    r"""Take one Newton step for all groups and tell for which ones it was the last.

    The step is that of `solve_norms`. With the mean :math:`m` of :math:`\tau / (d_i\theta + \tau)`, weighted by
    :math:`a_i^2`, the relative error left after a step of relative size :math:`s` is at most about
    :math:`\tfrac32 s^2 m`. Its effect on the optimality condition, in units of :math:`\lVert d \odot w \rVert`,
    is :math:`m` times that. :math:`\lVert d \odot w \rVert \ge \tau / m` shows that the group is not zero.
    """
    step = norms + total / slope * (total.sqrt() - 1)
    mean = 1 - norms * slope / total
    size = (step - norms).abs() / step
    is_zero = (norms == 0) & (total < 1 - _ZERO_MARGIN)
    is_exact = (size < 0.1) & (1.5 * (size * mean).square() <= torch.finfo(norms.dtype).eps)
    is_sound = (norms > 0) & (step > 0) & (mean < 1 - _ZERO_MARGIN) & step.isfinite() & slope.isfinite()
    moved = torch.where((step > 0) & step.isfinite() & ~is_zero, step, 0)
    return moved, is_zero | (is_exact & is_sound)


def _norms(views: Sequence[Tensor], scratch: Scratch) -> Tensor:
    squares = views[0].new_empty(sum(view.shape[0] * view.shape[2] for view in views))
    for view, part in zip(views, _cut(squares, views), strict=True):
        _gather(
            [torch.mul(rows, rows, out=scratch.take("a", rows)).sum(dim=1) for rows in _chunks(view)], part
        )
    return squares.sqrt_()


def _view(work: Tensor, layer: LayerStep) -> Tensor:
    return group_view(work, layer.groups.axis, layer.groups.conv_groups)


def _rows(view: Tensor) -> Tensor:
    return view.flatten(2)


def _cut(values: Tensor, views: Sequence[Tensor]) -> list[Tensor]:
    """Return the layers' parts of a vector of one value a group, shaped (blocks, channels)."""
    shapes = [(view.shape[0], view.shape[2]) for view in views]
    parts = values.split([blocks * channels for blocks, channels in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


def _taus(taus: Sequence[float], views: Sequence[Tensor], like: Tensor) -> Tensor:
    """Return the layers' thresholds, once a group."""
    counts = torch.tensor([view.shape[0] * view.shape[2] for view in views], device=like.device)
    values = torch.tensor(taus, dtype=like.dtype, device=like.device)
    return values.repeat_interleave(counts, output_size=len(like))


def _chunks(view: Tensor) -> tuple[Tensor, ...]:
    """Return the rows, (blocks, reduced, channels x kernel), in pieces that fit the cache."""
    rows = _rows(view)
    blocks, reduced, _ = rows.shape
    if blocks > 1 or rows.numel() <= _CHUNK:
        return (rows,)
    chunks: tuple[Tensor, ...] = rows.split(max(1, _CHUNK * reduced // rows.numel()), dim=1)
    return chunks


def _gather(parts: Sequence[Tensor], out: Tensor) -> None:
    """Add up the chunks' sums, (blocks, channels x kernel), over the kernel too, to (blocks, channels)."""
    total = parts[0] if len(parts) == 1 else torch.stack(list(parts)).sum(dim=0)
    if total.shape == out.shape:
        out.copy_(total)
    else:
        torch.sum(total.view(*out.shape, -1), dim=2, out=out)


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
    # Below the lower bound squares that underflow could matter. Above the upper one those that overflow could;
    # up to it an infinite norm rightly means a factor of one.
    limits = torch.finfo(dtype)
    return math.sqrt(limits.tiny) / limits.eps <= strength and tau <= math.sqrt(limits.max) * limits.eps / 4
