"""Weights as rows of memory, and vectors of one value a channel group beside them.

Weights are seen as in `lomt.structure.group_view`: (blocks, reduced, channels, kernel), their rows as (blocks,
reduced, channels x kernel). All views and all memory are made once and used in every step: with many small layers
making them anew costs more than the arithmetic.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lomt.structure import LayerGroups, group_view

__all__ = ["GroupVector", "Piece", "Rows", "Scratch"]

# Weights handled at a time on a processor: the intermediate values of that many stay in its cache.
_CHUNK = 2**18


class Scratch:
    """Memory for intermediate values, shared by all layers of one dtype and device."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}

    def take(self, purpose: str, size: int, like: Tensor, start: int = 0) -> Tensor:
        """Return `size` uninitialised entries, the same memory for the same `purpose` and `start`.

        When there is not enough of it, new memory takes its place; what was taken before stays usable.
        """
        key = (purpose, like.dtype, like.device)
        if key not in self._buffers or self._buffers[key].numel() < start + size:
            self._buffers[key] = torch.empty(start + size, dtype=like.dtype, device=like.device)
        return self._buffers[key][start : start + size]


class Piece(NamedTuple):
    """Some rows of a layer and memory for what is computed from them, all of one shape.

    Args:
        weight: Rows of the weight.
        moment: Rows of the second moments, or of the weight again where there are none.
        metric: Memory that keeps its values until the step's end.
        first: Memory that the next piece writes to as well.
        second: The same.
    """

    weight: Tensor
    moment: Tensor
    metric: Tensor
    first: Tensor
    second: Tensor


class GroupVector:
    """A layer's part of a vector of one value a group: sums over its rows, or factors for them.

    Args:
        values: The part, (blocks, channels).
        kernel: Entries of a row that belong to one channel.
        pieces: Number of pieces the rows come in.

    Attributes:
        sums: For each piece memory for the sum of its rows, (blocks, channels x kernel).
    """

    def __init__(self, values: Tensor, kernel: int, pieces: int) -> None:
        self.values = values
        self._row = values.unsqueeze(1)
        self.sums = [values]
        self._parts = self._spread = None
        if kernel > 1:
            self._spread = values.new_empty(*values.shape, kernel)
            self._row = self._spread.flatten(1).unsqueeze(1)
        if kernel > 1 or pieces > 1:
            self._parts = values.new_empty(pieces, *values.shape, kernel)
            self.sums = [part.flatten(1) for part in self._parts]

    def collect(self) -> None:
        """Compute the values from `sums`."""
        if self._parts is not None:
            torch.sum(self._parts, dim=(0, 3), out=self.values)

    def row(self) -> Tensor:
        """Return the values so that they multiply rows: (blocks, 1, channels x kernel)."""
        if self._spread is not None:
            self._spread.copy_(self.values.unsqueeze(2))
        return self._row


class Rows:
    """One layer's weight, and second moments if any, as rows.

    Weights in short floats or scattered memory are worked on in a copy; `load` and `store` keep it in step.

    Args:
        weight: The weight, to be changed in place.
        moment: Second moments shaped like it, or None.
        groups: The weight's channel groups.
        scratch: Shared memory.
        start: Where in that memory this layer's begins.

    Attributes:
        shape: Of the view: blocks, reduced, channels, kernel.
        whole: All rows at once.
        pieces: The same rows, cut up.
    """

    def __init__(
        self, weight: Tensor, moment: Tensor | None, groups: LayerGroups, scratch: Scratch, start: int
    ) -> None:
        self.groups = groups
        self.weight = weight = weight.detach()
        self._moment = moment
        size = weight.numel()
        is_usable = weight.dtype in (torch.float32, torch.float64) and _is_dense(weight)
        like = weight if weight.dtype == torch.float64 else weight.new_empty((), dtype=torch.float32)
        work = weight if is_usable else scratch.take("weight", size, like, start).view(weight.shape)
        self._work = work
        self._work_moment = work if moment is None else moment
        if moment is not None and (moment.dtype != work.dtype or moment.stride() != work.stride()):
            memory = scratch.take("moment", size, like, start)
            self._work_moment = memory.as_strided(work.shape, work.stride())
        self._view = self._as_view(work)
        self.shape = self._view.shape
        self.whole = self._view.flatten(2)
        self._metric = scratch.take("metric", size, like, start).view(self.shape)
        self.pieces = self._cut(scratch)

    def vector(self, values: Tensor) -> GroupVector:
        """Return a part of a vector, one value a group of this layer, made fit for its rows."""
        blocks, _, channels, kernel = self.shape
        return GroupVector(values.view(blocks, channels), kernel, len(self.pieces))

    def load(self) -> None:
        """Copy what is not worked on in place, before a step."""
        if self._work is not self.weight:
            self._work.copy_(self.weight)
        if self._moment is not None and self._work_moment is not self._moment:
            self._work_moment.copy_(self._moment)

    def store(self) -> None:
        """Copy the result back, after a step."""
        if self._work is not self.weight:
            self.weight.copy_(self._work)

    def gather(self, where: Tensor) -> tuple[Tensor, Tensor]:
        """Return weights and metric of some groups in float64, one row a group.

        Args:
            where: Which groups, as a mask of (blocks, channels).
        """
        weight, metric = (x.transpose(1, 2)[where].flatten(1).double() for x in (self._view, self._metric))
        return weight, metric

    def _as_view(self, weight: Tensor) -> Tensor:
        return group_view(weight, self.groups.axis, self.groups.conv_groups)

    def _cut(self, scratch: Scratch) -> list[Piece]:
        wholes = (self._view, self._as_view(self._work_moment), self._metric)
        pieces = []
        for weight, moment, metric in zip(*(_chunks(whole.flatten(2)) for whole in wholes), strict=True):
            first, second = (
                scratch.take(name, weight.numel(), self._metric).view(weight.shape)
                for name in ("first", "second")
            )
            pieces.append(Piece(weight, moment, metric, first, second))
        return pieces


def _chunks(rows: Tensor) -> Sequence[Tensor]:
    blocks, reduced, _ = rows.shape
    if blocks > 1 or rows.numel() <= _CHUNK or rows.device.type != "cpu":
        return [rows]
    chunks: Sequence[Tensor] = rows.split(max(1, _CHUNK * reduced // rows.numel()), dim=1)
    return chunks


def _is_dense(weight: Tensor) -> bool:
    return weight.is_contiguous() or weight.movedim(1, -1).is_contiguous()
