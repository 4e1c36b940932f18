"""Coupled channels: one set of channels of a network with every slice of every tensor that belongs to each."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from lomt.structure.free_sizes import FreeSize, WrittenSize
from lomt.structure.recording import Contraction, Tie
from lomt.structure.spans import Span

__all__ = ["CoupledChannels", "Keep", "Resolved", "Role", "Structure", "TensorSlices", "all_kept"]

Role = Literal["producer", "consumer", "scale"]
"""A weight's slices compute the channel, read it, or act on it alone (norm, bias, position embedding)."""

Keep = Mapping[str, Bool[Tensor, " _"]]
"""Which channels stay, by the name of the coupled channels; all of those that are not named."""


@dataclass(frozen=True)
class TensorSlices:
    """Which positions along one dimension of a tensor belong to which channel.

    Args:
        tensor: Dotted name of a parameter, a buffer or a tensor kept as an attribute.
        dim: The dimension.
        owner: (positions,), the channel of each position, -1 where none.
        role: What these slices do with the channel.
    """

    tensor: str
    dim: int
    owner: Int[Tensor, " positions"]
    role: Role

    @property
    def layer(self) -> str:
        """Dotted path of the module that holds the tensor."""
        return self.tensor.rpartition(".")[0]


@dataclass(frozen=True)
class CoupledChannels:
    """Channels of all layers that must lose the same ones.

    Args:
        name: Unique: the first layer that computes them, with a suffix where it computes several kinds.
        count: How many channels.
        slices: What belongs to them.
        protected: Why none may be removed; ``None`` if they may.
        mixers: What computes with all of them at once, which makes removal lossy.
    """

    name: str
    count: int
    slices: tuple[TensorSlices, ...]
    protected: str | None = None
    mixers: tuple[str, ...] = ()

    @property
    def producers(self) -> tuple[str, ...]:
        """Layers that compute the channels."""
        return self._layers("producer")

    @property
    def consumers(self) -> tuple[str, ...]:
        """Layers that read the channels."""
        return self._layers("consumer")

    @property
    def is_exact(self) -> bool:
        """Whether a channel that no consumer reads can go without any change of the outputs."""
        return not self.mixers and bool(self.consumers)

    def _layers(self, role: Role) -> tuple[str, ...]:
        return tuple(dict.fromkeys(own.layer for own in self.slices if own.role == role))


@dataclass(frozen=True)
class Resolved:
    """What a choice of channels means for the network's tensors and modules.

    Args:
        tensors: Kept positions by tensor and dimension, where any go.
        attributes: Module, attribute, position in it or ``None``, new value.
        freed: Module, method and reshapes in it that are to leave a size free.
    """

    tensors: Mapping[str, Mapping[int, Int[Tensor, " kept"]]]
    attributes: tuple[tuple[str, str, int | None, int], ...]
    freed: tuple[tuple[str, str, tuple[FreeSize, ...]], ...] = ()


@dataclass(frozen=True)
class Structure:
    """How the channels of a network hang together, and what each of its parts costs.

    Args:
        coupled: All coupled channels, protected ones too, in the order in which they are computed.
        serves: By parameter, the outputs that depend on it.
        outputs: Names of the outputs.
        unused_layers: Modules with weights on which no output depends.
        parameters: The spans of every parameter, one a dimension.
        contractions: Multiply-accumulates.
        ties: Numbers that modules keep about themselves.
        leaves: Name of the coupled channels by leaf of the spans.
        written: Sizes that methods write out in a reshape.
        freed: Modules whose written sizes are left free once their channels change.
        example_outputs: What the network put out for the example inputs, by name.
    """

    coupled: tuple[CoupledChannels, ...]
    serves: Mapping[str, tuple[str, ...]]
    outputs: tuple[str, ...]
    unused_layers: tuple[str, ...]
    parameters: Mapping[str, tuple[Span, ...]]
    contractions: Sequence[Contraction]
    ties: Sequence[Tie]
    leaves: Mapping[Span, str]
    written: Sequence[WrittenSize] = ()
    freed: frozenset[str] = frozenset()
    example_outputs: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def prunable(self) -> tuple[CoupledChannels, ...]:
        """Coupled channels of which some may go."""
        return tuple(own for own in self.coupled if own.protected is None)

    @cached_property
    def by_name(self) -> Mapping[str, CoupledChannels]:
        """All coupled channels by name."""
        return {own.name: own for own in self.coupled}

    def protecting(self, reasons: Mapping[str, str]) -> "Structure":
        """Return the structure with more coupled channels protected.

        Args:
            reasons: By name.
        """
        coupled = tuple(
            replace(own, protected=own.protected or reasons.get(own.name)) for own in self.coupled
        )
        return replace(self, coupled=coupled)

    def params(self, keep: Keep | None = None) -> int:
        """Count the parameters that are left."""
        size = _Sizes(self.leaves, self._allowed(keep or {}))
        return sum(prod(size.of(span) for span in spans) for spans in self.parameters.values())

    def macs(self, keep: Keep | None = None) -> int:
        """Count the multiply-accumulates of one run on the example inputs that are left."""
        return sum(self.layer_macs(keep).values())

    def layer_macs(self, keep: Keep | None = None) -> dict[str, int]:
        """Count multiply-accumulates by layer."""
        size = _Sizes(self.leaves, self._allowed(keep or {}))
        found: dict[str, int] = {}
        for own in self.contractions:
            macs = own.positions * prod(size.of(span) for span in own.spans)
            found[own.layer] = found.get(own.layer, 0) + macs
        return found

    def component(self, name: str) -> str:
        """Say which part of the network coupled channels belong to.

        Returns:
            The output that alone depends on them, ``"shared"`` if several do, ``"unused"`` if none.
        """
        coupled = self.by_name[name]
        own = [part for part in coupled.slices if part.role == "producer"] or coupled.slices
        served = dict.fromkeys(output for part in own for output in self.serves.get(part.tensor, ()))
        if len(served) > 1:
            return "shared"
        return next(iter(served), "unused")

    def resolve(self, keep: Keep) -> Resolved:
        """Translate a choice of channels to positions in tensors and numbers in modules; protected ones stay."""
        keep = self._allowed(keep)
        masks: dict[str, dict[int, Tensor]] = {}
        for name, mask in keep.items():
            if bool(mask.all()):
                continue
            for own in self.by_name[name].slices:
                dims = masks.setdefault(own.tensor, {})
                stays = (own.owner < 0) | mask[own.owner.clamp(min=0)]
                dims[own.dim] = stays & dims[own.dim] if own.dim in dims else stays
        tensors = {
            tensor: {dim: mask.nonzero().flatten() for dim, mask in sorted(dims.items()) if not mask.all()}
            for tensor, dims in masks.items()
        }
        size = _Sizes(self.leaves, keep)
        changes: dict[tuple[str, str, int | None], int] = {}
        for tie in self.ties:
            if (value := size.of(tie.span)) != tie.span.size:
                changes[tie.module, tie.attribute, tie.index] = value * tie.times
        attributes = tuple((*place, value) for place, value in changes.items())
        return Resolved({name: dims for name, dims in tensors.items() if dims}, attributes, self._freed(size))

    def _allowed(self, keep: Keep) -> Keep:
        """The masks of what may be pruned: protected channels stay, whatever is asked."""
        return {name: mask for name, mask in keep.items() if self.by_name[name].protected is None}

    def _freed(self, size: "_Sizes") -> tuple[tuple[str, str, tuple[FreeSize, ...]], ...]:
        calls: dict[tuple[str, str], dict[FreeSize, None]] = {}
        for own in self.written:
            if own.module in self.freed and any(size.of(span) != span.size for span in own.spans):
                found = calls.setdefault((own.module, own.function), {})
                found |= dict.fromkeys(own.calls(size.of))
        return tuple((*place, tuple(found)) for place, found in calls.items())

    def freeing(self, modules: Iterable[str]) -> "Structure":
        """Return the structure with more modules whose reshapes are to leave sizes free."""
        return replace(self, freed=self.freed | frozenset(modules))


class _Sizes:
    """Sizes of spans once channels are gone."""

    def __init__(self, leaves: Mapping[Span, str], keep: Keep) -> None:
        self._leaves = leaves
        self._kept = {name: int(mask.sum()) for name, mask in keep.items()}
        self._known: dict[Span, int] = {}

    def of(self, span: Span) -> int:
        """Return the size of a span."""
        root = span.root
        if (known := self._known.get(root)) is not None:
            return known
        if root.is_leaf:
            value = self._kept.get(self._leaves.get(root, ""), root.size)
        elif root.pieces[0] is not root:
            value = sum(map(self.of, root.pieces))
        else:
            value = prod(map(self.of, root.factors))
        self._known[root] = value
        return value


def all_kept(coupled: Iterable[CoupledChannels]) -> dict[str, Bool[Tensor, " _"]]:
    """Return masks that keep everything."""
    return {own.name: torch.ones(own.count, dtype=torch.bool) for own in coupled}
