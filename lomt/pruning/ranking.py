"""In which order channels go: block by block, never below a layer's least width."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lomt.errors import LomtError, UnknownNameError
from lomt.pruning.interfaces import Prunable
from lomt.structure.coupled_channels import CoupledChannels

__all__ = [
    "RANKINGS",
    "BudgetError",
    "Divisor",
    "RankedLayer",
    "Ranking",
    "divisor_left",
    "rank_channels",
    "width_step",
]

Divisor = int | Mapping[str, int] | Callable[[str, int], Iterable[int]] | None
"""What widths are multiples of, or which are allowed, see :func:`rank_channels`."""


class BudgetError(LomtError, ValueError):
    """A budget that cannot be met, or that is not one."""


RANKINGS: Mapping[str, Callable[[Prunable, str], str]] = {
    "global": lambda structure, name: "",
    "component": lambda structure, name: structure.component(name),
    "layer": lambda structure, name: name,
}
"""Among which coupled channels blocks compete: what names those that compete with each other."""


_BLOCK = 16
"""Channels that onnxruntime's convolutions compute at a time with AVX-512.

Other widths are padded to it, and layers below it fall out of the fast memory layout, which costs more than their
multiply-accumulates save. With AVX2 it is 8.
"""


@dataclass(frozen=True)
class RankedLayer:
    """The coupled channels of one layer, the least needed first, and the widths they may have.

    Args:
        name: Name of the coupled channels.
        order: The channels, in the order in which they go, (count,).
        widths: The widths, falling; the first is the number of channels.
    """

    name: str
    order: Int[Tensor, " channels"]
    widths: tuple[int, ...]

    def mask(self, removed_blocks: int) -> Bool[Tensor, " channels"]:
        """Return which channels are kept after the removal of so many blocks."""
        if removed_blocks not in self._masks:
            keep = torch.ones(len(self.order), dtype=torch.bool)
            keep[self.order[: len(self.order) - self.widths[removed_blocks]]] = False
            self._masks[removed_blocks] = keep
        return self._masks[removed_blocks]

    @cached_property
    def _masks(self) -> dict[int, Tensor]:
        """Masks that were asked for: the search for a budget asks for the same ones many times."""
        return {}


@dataclass(frozen=True)
class Ranking:
    """All blocks of channels that may go, in the order in which they should.

    Args:
        layers: The coupled channels that may lose channels.
        order: For each block the layer (its place in ``layers``) that loses its next block.
    """

    layers: tuple[RankedLayer, ...]
    order: tuple[int, ...]

    def removed(self, blocks: int) -> Counter[int]:
        """Return how many blocks each layer has lost when so many are gone."""
        return Counter(self.order[:blocks])

    def keep(self, removed: Mapping[int, int]) -> dict[str, Bool[Tensor, " channels"]]:
        """Return the masks of those layers that have lost blocks.

        Args:
            removed: Number of blocks by the layer's place.
        """
        return {self.layers[i].name: self.layers[i].mask(blocks) for i, blocks in removed.items() if blocks}


def rank_channels(
    structure: Prunable,
    scores: Mapping[str, Float[Tensor, " _"]],
    *,
    divisor: Divisor = None,
    ranking: str = "global",
    minimum: float = 0.1,
    must_stay: Mapping[str, Bool[Tensor, " _"]] | None = None,
) -> Ranking:
    """List the blocks of channels in the order in which they should be removed.

    A layer's channels are sorted by score and cut into blocks that lead from one allowed width to the next. A
    block counts as its channels' mean score. With ``"global"`` ranking the lowest block goes first wherever it is, so
    scores must compare across layers; ``"component"`` removes the same fraction of channels from the shared part
    and from each task's decoder, ``"layer"`` from every layer, as far as least widths allow.

    Args:
        structure: What was traced.
        scores: One finite score a channel, by name, (count,); higher ones stay.
        divisor: What widths are multiples of: one number, or one by name. A width is counted in positions of the
            tensors: where a channel takes 64 of them, as an attention head may, every number of heads is a
            multiple of 8. The full width is always allowed. Or a function of name and count that returns the
            allowed numbers of channels, for example measured ones. None allows the multiples of 16, which
            suit the engines' kernels, and 8 where a budget cannot be met otherwise.
        ranking: A key of `RANKINGS`.
        minimum: Least fraction of each layer's channels that stays, 0 to 1; at least one block stays anyway.
        must_stay: By name a mask (count,), True where a channel must not go.

    Raises:
        UnknownNameError: If there is no such ranking, or a name is not of this structure.
        BudgetError: If a score is missing, not finite or of the wrong shape, or another argument is out of range.
    """
    if ranking not in RANKINGS:
        raise UnknownNameError("ranking", ranking, RANKINGS)
    if not 0 <= minimum <= 1:
        raise BudgetError(f"Expected `minimum` to be between 0 and 1, but got {minimum}.")
    must_stay = must_stay or {}
    _check_names(structure, must_stay, divisor)
    layers, groups, blocks = [], [], []
    for coupled in structure.prunable:
        score = _checked_score(coupled, scores)
        stays = _checked_mask(coupled, must_stay)
        least = max(math.ceil(minimum * coupled.count - 1e-9), int(stays.sum()), 1)
        widths = tuple(w for w in _widths(coupled, divisor) if w >= least)
        # Sorted by score, equal ones by place with the later first to go; those that must stay come last.
        order = torch.argsort(torch.where(stays, math.inf, score).flip(0), stable=True)
        layers.append(RankedLayer(coupled.name, coupled.count - 1 - order, widths))
        groups.append(RANKINGS[ranking](structure, coupled.name))
        full = width_step(coupled, _BLOCK) if divisor is None else 0
        blocks.append(_block_means(score, layers[-1], full))
    return Ranking(tuple(layers), _merge(layers, groups, blocks))


def width_step(coupled: CoupledChannels, divisor: int) -> int:
    """Return the least number of channels whose positions in every tensor are a multiple of the divisor.

    Args:
        coupled: The coupled channels; what producers and consumers give a channel counts.
        divisor: What tensor widths should be multiples of, at least 1.
    """
    span = 0
    for part in coupled.slices:
        if part.role != "scale":
            owner = part.owner.cpu()
            counts = torch.bincount(owner[owner >= 0], minlength=coupled.count)
            span = math.gcd(span, *counts.tolist())
    return divisor // math.gcd(divisor, span or 1)


def divisor_left(divisor: Divisor, before: Prunable, now: Prunable) -> Divisor:
    """Leave out the names of what was removed as a whole meanwhile.

    Args:
        divisor: Where it is one by name, of `before`.
        before: What was traced from the model.
        now: What was traced from what is left of it.
    """
    if not isinstance(divisor, Mapping):
        return divisor
    gone = {own.name for own in before.coupled} - {own.name for own in now.coupled}
    return {name: number for name, number in divisor.items() if name not in gone}


def _widths(coupled: CoupledChannels, divisor: Divisor) -> list[int]:
    if callable(divisor):
        allowed = {width for width in divisor(coupled.name, coupled.count) if 0 < width < coupled.count}
    elif divisor is None:
        step = width_step(coupled, _BLOCK)
        half = width_step(coupled, _BLOCK // 2)
        allowed = {*range(step, coupled.count, step), *range(half, min(step, coupled.count), half)}
    else:
        step = width_step(coupled, divisor if isinstance(divisor, int) else divisor[coupled.name])
        allowed = set(range(step, coupled.count, step))
    return sorted(allowed | {coupled.count}, reverse=True)


def _block_means(score: Tensor, layer: RankedLayer, full: int) -> list[float]:
    """Return the blocks' mean scores, infinite where less than a full width would be left: these go last."""
    ordered = score[layer.order].tolist()
    means = []
    for wide, narrow in pairwise(layer.widths):
        start, end = len(ordered) - wide, len(ordered) - narrow
        means.append(sum(ordered[start:end]) / (end - start) if narrow >= full else math.inf)
    return means


def _merge(layers: list[RankedLayer], groups: list[str], blocks: list[list[float]]) -> tuple[int, ...]:
    """Sort the blocks of each group by score, and merge the groups so that all lose the same fraction."""
    totals: Counter[str] = Counter()
    listed: dict[str, list[tuple[float, int, int]]] = {}
    for place, (layer, group, means) in enumerate(zip(layers, groups, blocks, strict=True)):
        totals[group] += layer.widths[0]
        sizes = [wide - narrow for wide, narrow in pairwise(layer.widths)]
        listed.setdefault(group, []).extend(
            (mean, place, size) for mean, size in zip(means, sizes, strict=True)
        )
    merged = []
    for group, members in listed.items():
        gone = 0
        for mean, place, size in sorted(members, key=lambda member: member[:2]):
            gone += size
            merged.append((mean == math.inf, gone / totals[group], place))
    return tuple(place for *_, place in sorted(merged, key=lambda member: member[:2]))


def _check_names(structure: Prunable, must_stay: Mapping[str, Tensor], divisor: Divisor) -> None:
    known = [coupled.name for coupled in structure.coupled]
    for name in must_stay:
        if name not in known:
            raise UnknownNameError("coupled channels", name, known)
    by_name = divisor if isinstance(divisor, Mapping) else {}
    for name in by_name:
        if name not in known:
            raise UnknownNameError("coupled channels", name, known)
    if isinstance(divisor, Mapping):
        missing = [coupled.name for coupled in structure.prunable if coupled.name not in divisor]
        if missing:
            raise BudgetError(
                f"Expected `divisor` to have one for each layer, but got none for `{missing[0]}`."
            )
    for number in by_name.values() if by_name else [divisor]:
        if isinstance(number, int) and number < 1:
            raise BudgetError(f"Expected `divisor` to be at least 1, but got {number}.")


def _checked_score(coupled: CoupledChannels, scores: Mapping[str, Tensor]) -> Tensor:
    score = scores.get(coupled.name)
    if score is None or score.shape != (coupled.count,):
        got = "none" if score is None else f"shape {tuple(score.shape)}"
        raise BudgetError(
            f"Expected `scores` to have {coupled.count} numbers for `{coupled.name}`, but got {got}."
        )
    if not score.isfinite().all():
        raise BudgetError(f"Expected the scores of `{coupled.name}` to be finite, but some are not.")
    return score.detach().cpu().double()


def _checked_mask(coupled: CoupledChannels, must_stay: Mapping[str, Tensor]) -> Tensor:
    mask = must_stay.get(coupled.name, torch.zeros(coupled.count, dtype=torch.bool))
    if mask.shape != (coupled.count,):
        raise BudgetError(
            f"Expected the mask of `{coupled.name}` in `must_stay` to be of shape ({coupled.count},), "
            f"but got {tuple(mask.shape)}."
        )
    return mask.cpu()
