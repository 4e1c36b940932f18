"""The proximal steps of some layers together, in place and with few passes over their memory.

What can be said of a group with sums in the weights' own precision is settled here, for all groups at once;
the few groups left over go to the exact functions of `lomt.sparsity.prox`.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lomt.sparsity.prox import group_soft_threshold, group_weight, solve_norms
from lomt.sparsity.rows import Rows, Scratch
from lomt.structure import LayerGroups

__all__ = ["Bunch", "Layer", "LayerStep", "newton_step"]

_MOST_SWEEPS = 5
# Above this share of unsettled groups another sweep over the layers is cheaper than gathering them.
_FEW = 0.03
# Closer to the threshold than this, sums in float32 cannot tell whether a group is zero.
_ZERO_MARGIN = 1e-4


class Layer(NamedTuple):
    """A layer to be stepped.

    Args:
        name: Name of the parameter.
        weight: The weight in any floating dtype, changed in place; computed in float32 at least.
        groups: Its channel groups.
        moment: Adam's second moments, shaped as `weight`; None in the Euclidean metric.
    """

    name: str
    weight: Tensor
    groups: LayerGroups
    moment: Tensor | None = None


class LayerStep(NamedTuple):
    r"""One layer's part in one step.

    Args:
        strength: :math:`\eta\lambda > 0`, learning rate times lambda.
        correction: :math:`c` of Adam's metric :math:`d = \sqrt{v / c} + \epsilon`; 1 for none.
        eps: :math:`\epsilon` of the same.
    """

    strength: float
    correction: float = 1.0
    eps: float = 0.0


class Bunch:
    """Some layers of one dtype and device, prepared to be stepped again and again.

    Args:
        layers: The layers; their tensors are held and must stay the ones that training changes.
        scratch: Memory shared with other bunches.
    """

    def __init__(self, layers: Sequence[Layer], scratch: Scratch) -> None:
        self._layers = tuple(layers)
        self._rows: list[Rows] = []
        start = 0
        for layer in layers:
            self._rows.append(Rows(layer.weight, layer.moment, layer.groups, scratch, start))
            start += layer.weight.numel()
        counts = [layer.groups.count for layer in layers]
        like = self._rows[0].pieces[0].metric
        # In Adam's metric: the norms sought, at first where Newton starts, and those that the last step found.
        self._norms, self._last = like.new_empty(sum(counts)), like.new_empty(sum(counts))
        self._factors, self._totals, self._slopes = (torch.empty_like(self._norms) for _ in range(3))
        self._norm_rows, self._factor_rows, self._total_rows, self._slope_rows = (
            [rows.vector(part) for rows, part in zip(self._rows, values.split(counts), strict=True)]
            for values in (self._norms, self._factors, self._totals, self._slopes)
        )
        self._counts = torch.tensor(counts, device=like.device)
        weights = [group_weight(layer.groups.size) for layer in layers]
        self._group_weights = self._once_a_group(weights)
        self._one = like.new_ones(())
        self._has_norms = [False] * len(counts)

    def __len__(self) -> int:
        return len(self._layers)

    def holds(self, layers: Sequence[Layer]) -> bool:
        """Tell whether these are the tensors this was made for."""
        return len(layers) == len(self._layers) and all(
            old.name == new.name and _is_same(old.weight, new.weight) and _is_same(old.moment, new.moment)
            for old, new in zip(self._layers, layers, strict=True)
        )

    def norms(self) -> dict[str, Tensor]:
        """Return for each layer where the next step in Adam's metric starts; none before the first step.

        Returns:
            By name, (2, groups): where Newton starts, and the norms that the last step found.
        """
        return {
            layer.name: torch.stack(parts)
            for layer, is_known, *parts in zip(
                self._layers, self._has_norms, self._split(self._norms), self._split(self._last), strict=True
            )
            if is_known
        }

    def set_norms(self, norms: dict[str, Tensor]) -> None:
        """Let the next step in Adam's metric start where `norms` of another bunch says, for layers it names."""
        for index, (layer, *parts) in enumerate(
            zip(self._layers, self._split(self._norms), self._split(self._last), strict=True)
        ):
            if layer.name in norms:
                for part, values in zip(parts, norms[layer.name], strict=True):
                    part.copy_(values)
                self._has_norms[index] = True

    def step_euclidean(self, steps: Sequence[LayerStep]) -> None:
        """Apply `group_soft_threshold` to every layer."""
        dtype = self._norms.dtype
        taus = [
            s.strength * group_weight(layer.groups.size) for s, layer in zip(steps, self._layers, strict=True)
        ]
        if not all(_are_squares_safe(dtype, s.strength, tau) for s, tau in zip(steps, taus, strict=True)):
            self._step_exactly(taus)
            return
        for index, rows in enumerate(self._rows):
            rows.load()
            self._square(index)
        torch.div(self._taus(steps), self._totals.sqrt_(), out=self._factors)
        torch.sub(self._one, self._factors, out=self._factors).clamp_(min=0)
        for rows, factors in zip(self._rows, self._factor_rows, strict=True):
            rows.whole.mul_(factors.row())
            rows.store()

    def step_in_adam(self, steps: Sequence[LayerStep]) -> None:
        """Apply `adam_group_soft_threshold` to every layer, starting from the norms of the step before."""
        # Scaling d and tau alike changes nothing, so that c can move from every entry of v to eps and tau.
        roots = [math.sqrt(step.correction) for step in steps]
        scaled = [
            LayerStep(s.strength * root, 1.0, s.eps * root) for s, root in zip(steps, roots, strict=True)
        ]
        self._start()
        self._solve(scaled)
        # x = w / (1 + (tau / theta) / d), which is zero where theta is
        self._factors.copy_(self._taus(scaled) / self._norms.double())
        self._predict()
        for rows, factors in zip(self._rows, self._factor_rows, strict=True):
            row = factors.row()
            for piece in rows.pieces:
                torch.addcdiv(self._one, row, piece.metric, out=piece.first)
                piece.weight.div_(piece.first)
            rows.store()

    def _step_exactly(self, taus: Sequence[float]) -> None:
        for layer, tau in zip(self._layers, taus, strict=True):
            groups = layer.groups
            layer.weight.copy_(group_soft_threshold(layer.weight, tau, groups.axis, groups.conv_groups))

    def _start(self) -> None:
        for index, rows in enumerate(self._rows):
            rows.load()
            if not self._has_norms[index]:
                self._square(index)
                values = self._norm_rows[index].values
                torch.sqrt(self._total_rows[index].values, out=values)
                self._split(self._last)[index].copy_(values.flatten())
                self._has_norms[index] = True

    def _predict(self) -> None:
        """Let the next step start where the norms are going: groups on their way to zero shrink steadily."""
        change = torch.where(self._last > 0, self._norms / self._last, 1).clamp_(0.5, 1.5)
        self._last.copy_(self._norms)
        self._norms.mul_(change)

    def _square(self, index: int) -> None:
        totals = self._total_rows[index]
        for piece, sums in zip(self._rows[index].pieces, totals.sums, strict=True):
            torch.mul(piece.weight, piece.weight, out=piece.first)
            torch.sum(piece.first, dim=1, out=sums)
        totals.collect()

    def _solve(self, steps: Sequence[LayerStep]) -> None:
        for turn in range(_MOST_SWEEPS):
            for index, step in enumerate(steps):
                self._sweep(index, step, is_first=turn == 0)
            moved, is_settled = newton_step(self._norms, self._totals, self._slopes)
            self._norms.copy_(moved)
            unsettled = is_settled.numel() - int(is_settled.sum())
            if unsettled <= _FEW * is_settled.numel():
                break
        if unsettled:
            self._settle(~is_settled, steps)

    def _sweep(self, index: int, step: LayerStep, is_first: bool) -> None:
        r"""Sum :math:`a_i^2` and :math:`a_i^2 / u_i` for :math:`u_i = \theta + \tau / d_i`, :math:`a_i = w_i / u_i`."""
        tau = step.strength * group_weight(self._layers[index].groups.size)
        eps = self._one.new_tensor(step.eps)  # made once: a number would become a tensor at every piece
        totals, slopes = self._total_rows[index], self._slope_rows[index]
        theta = self._norm_rows[index].row()
        for piece, total, slope in zip(self._rows[index].pieces, totals.sums, slopes.sums, strict=True):
            weight, moment, metric, u, a = piece
            if is_first:
                torch.sqrt(moment, out=metric)
                metric.add_(eps)
            torch.addcdiv(theta, self._one, metric, value=tau, out=u)
            torch.div(weight, u, out=a)
            torch.sum(a.mul_(a), dim=1, out=total)
            torch.sum(a.div_(u), dim=1, out=slope)
        totals.collect()
        slopes.collect()

    def _settle(self, is_unsettled: Tensor, steps: Sequence[LayerStep]) -> None:
        for layer, rows, norms, part, step in zip(
            self._layers, self._rows, self._norm_rows, self._split(is_unsettled), steps, strict=True
        ):
            where = part.view(norms.values.shape)
            if where.any():
                tau = step.strength * group_weight(layer.groups.size)
                norms.values[where] = solve_norms(*rows.gather(where), tau).to(norms.values.dtype)

    def _split(self, values: Tensor) -> tuple[Tensor, ...]:
        """Return the layers' parts of a vector of one value a group."""
        parts: tuple[Tensor, ...] = values.split([layer.groups.count for layer in self._layers])
        return parts

    def _taus(self, steps: Sequence[LayerStep]) -> Tensor:
        strengths = [step.strength for step in steps]
        if min(strengths) == max(strengths):
            return self._group_weights * strengths[0]
        return self._group_weights * self._once_a_group(strengths)

    def _once_a_group(self, values: Sequence[float]) -> Tensor:
        per_layer = torch.tensor(values, dtype=torch.float64, device=self._norms.device)
        return per_layer.repeat_interleave(self._counts, output_size=len(self._norms))


def newton_step(norms: Tensor, total: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    r"""Take one Newton step for all groups and tell for which ones it was the last.

    The step is that of `solve_norms`. With the mean :math:`m` of :math:`\tau / (d_i\theta + \tau)`, weighted by
    :math:`a_i^2`, the relative error left after a step of relative size :math:`s` is at most about
    :math:`\tfrac32 s^2 m`. Its effect on the optimality condition, in units of :math:`\lVert d \odot w \rVert`,
    is :math:`m` times that. :math:`\lVert d \odot w \rVert \ge \tau / m` shows that the group is not zero.
    """
    ratio = total / slope
    step = torch.addcmul(norms, ratio, total.sqrt().sub_(1))
    mean = (1 - norms / ratio).abs_()
    size = ((step - norms) / step).abs_()
    # Comparisons with what is not a number are false, and a step to below zero is larger than it leads to.
    tolerance = math.sqrt(4 * torch.finfo(norms.dtype).eps / 1.5)
    is_exact = (size < 0.1) & (size * mean <= tolerance) & (mean < 1 - _ZERO_MARGIN)
    is_zero = (norms == 0) & (total < 1 - _ZERO_MARGIN)
    moved = torch.where((step > 0) & (step < math.inf), step, 0)
    return moved, is_zero | is_exact


def _is_same(old: Tensor | None, new: Tensor | None) -> bool:
    if old is None or new is None:
        return old is new
    return (
        old.data_ptr() == new.data_ptr()
        and old.stride() == new.stride()
        and old.shape == new.shape
        and old.dtype == new.dtype
    )


def _are_squares_safe(dtype: torch.dtype, strength: float, tau: float) -> bool:
    # Below the lower bound squares that underflow could matter. Above the upper one those that overflow could;
    # up to it an infinite norm rightly means a factor of one.
    limits = torch.finfo(dtype)
    return math.sqrt(limits.tiny) / limits.eps <= strength and tau <= math.sqrt(limits.max) * limits.eps / 4
