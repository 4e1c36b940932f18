"""What is known of every tensor while a network runs: its spans, the weights behind it, who reads whom."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod

from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from lomt.structure.free_sizes import WrittenSize
from lomt.structure.spans import Span, regroup, unify

__all__ = ["Contraction", "Memory", "Recording", "Tie", "Value"]

Origin = tuple[str, int]
"""A dimension of a named tensor."""

SPATIAL = "a position, not a channel"


@dataclass
class Memory:
    """What flows into a piece of memory; views of one tensor share it.

    Args:
        reach: Bit mask of the named tensors it was computed from.
        is_live: Whether it was computed from the network's inputs.
        is_weight: Whether it is a named tensor's own, not the result of a computation.
    """

    reach: int = 0
    is_live: bool = False
    is_weight: bool = False

    def absorb(self, other: "Memory") -> None:
        """Add what flows into another."""
        self.reach |= other.reach
        self.is_live |= other.is_live


@dataclass
class Value:
    """A tensor met while the network ran.

    Args:
        spans: One a dimension.
        origins: For tensors computed from weights alone, the dimensions of weights behind each dimension.
        memory: Shared with its views.
    """

    spans: list[Span]
    origins: list[frozenset[Origin]]
    memory: Memory

    def group(self, sizes: Sequence[int]) -> "Value":
        """Return the value after a reshape in memory order."""
        before = [span.size for span in self.spans]
        spans = regroup(self.spans, sizes)
        return Value(spans, _overlapping(before, sizes, self.origins), self.memory)


@dataclass(frozen=True)
class Contraction:
    """Multiply-accumulates of one operation: a constant times the sizes of spans.

    Args:
        layer: Dotted path of the module that runs it.
        positions: Pixels and kernel entries together.
        spans: Whose sizes multiply it.
    """

    layer: str
    positions: int
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class Tie:
    """A number kept by a module that is the size of a span, or a multiple of it.

    Args:
        module: Dotted path.
        attribute: Name.
        index: Position where the attribute is a list or tuple.
        span: Whose size it is.
        times: How many times the size the number is.
    """

    module: str
    attribute: str
    index: int | None
    span: Span
    times: int = 1


@dataclass
class Recording:
    """Everything noted in one run of a network.

    Args:
        names: Dotted names of parameters and buffers; a tensor's bit is its place.
        modules: By dotted path.
    """

    names: tuple[str, ...]
    modules: Mapping[str, nn.Module]
    block: Span | None = None
    weights: dict[str, Value] = field(default_factory=dict)
    readers: list[frozenset[Origin]] = field(default_factory=list)
    writers: list[frozenset[Origin]] = field(default_factory=list)
    scales: list[tuple[frozenset[Origin], Span]] = field(default_factory=list)
    contractions: list[Contraction] = field(default_factory=list)
    ties: list[Tie] = field(default_factory=list)
    written: list[WrittenSize] = field(default_factory=list)
    called: dict[str, None] = field(default_factory=dict)
    scope: list[str] = field(default_factory=list)
    _values: WeakTensorKeyDictionary = field(default_factory=WeakTensorKeyDictionary)

    @cached_property
    def paths(self) -> Mapping[nn.Module, str]:
        """Dotted path by module, the first where it has several."""
        found: dict[nn.Module, str] = {}
        for path, module in self.modules.items():
            found.setdefault(module, path)
        return found

    @property
    def layer(self) -> str:
        """Dotted path of the module that runs now; empty for the network itself."""
        return self.scope[-1] if self.scope else ""

    @property
    def where(self) -> str:
        """The module that runs now, for a message."""
        return f"`{self.layer}`" if self.layer else "the network itself"

    def value(self, tensor: Tensor) -> Value:
        """Return what is known of a tensor; one never met is a constant whose indices stay."""
        known: Value | None = self._values.get(tensor)
        if known is None:
            spans = [Span(size, f"a constant made in {self.where}") for size in tensor.shape]
            known = Value(spans, [frozenset()] * len(spans), Memory())
            self._values[tensor] = known
        return known

    def add_weight(self, name: str, tensor: Tensor) -> None:
        """Make a parameter or buffer known; one under two names keeps its first."""
        known: Value | None = self._values.get(tensor)
        bit = 1 << self.names.index(name)
        if known is None:
            spans = [Span(size) for size in tensor.shape]
            known = Value(spans, [frozenset({(name, dim)}) for dim in range(tensor.ndim)], Memory())
            self._values[tensor] = known
        known.memory.is_weight = True
        known.memory.reach |= bit
        self.weights[name] = known

    def add_input(self, tensor: Tensor) -> None:
        """Make an input of the network known."""
        spans = [Span(size, "an input of the network") for size in tensor.shape]
        self._values[tensor] = Value(spans, [frozenset()] * len(spans), Memory(is_live=True))

    def put(
        self, tensor: Tensor, spans: Sequence[Span], origins: Sequence[frozenset[Origin]], memory: Memory
    ) -> None:
        """Make the result of an operation known."""
        assert [span.size for span in spans] == list(tensor.shape), (self.where, spans, tensor.shape)
        self._values[tensor] = Value(list(spans), list(origins), memory)

    def align(self, values: Iterable[Value], shape: Sequence[int]) -> Value:
        """Tie values that are broadcast against each other; returns the spans and origins of the result."""
        spans: list[Span | None] = [None] * len(shape)
        origins: list[frozenset[Origin]] = [frozenset()] * len(shape)
        for value in values:
            offset = len(shape) - len(value.spans)
            for dim, span in enumerate(value.spans, start=offset):
                if dim < 0:
                    continue
                origins[dim] |= value.origins[dim - offset]
                if span.size != shape[dim]:
                    continue
                known = spans[dim]
                if known is None:
                    spans[dim] = span
                else:
                    unify(known, span)
        done = [span or Span(size) for span, size in zip(spans, shape, strict=True)]
        return Value(done, origins, Memory())

    def contract(self, left: Value, left_dim: int, right: Value, right_dim: int, *, shared: int = 0) -> None:
        """Note a sum over products: the two dimensions are one, and a weight reads channels and computes others.

        Args:
            left: One operand.
            left_dim: Its dimension that is summed over.
            right: The other one.
            right_dim: Its dimension that is summed over.
            shared: How many leading dimensions both have in common.
        """
        summed = left.spans[left_dim]
        unify(summed, right.spans[right_dim])
        if left.memory.is_live and right.memory.is_live:
            summed.mix(f"a product of two features in {self.where}")
        elif not left.memory.is_live and not right.memory.is_live:
            self._mix_computed(summed, left, right)
        else:
            self._mix_computed(summed, right if left.memory.is_live else left)
        for value, dim in ((left, left_dim), (right, right_dim)):
            if not value.memory.is_live:
                self.note_weight(value, reads=[dim])
        own = [span for dim, span in enumerate(right.spans) if dim != right_dim and dim >= shared]
        self.contractions.append(Contraction(self.layer, 1, (*left.spans, *own)))

    def _mix_computed(self, summed: Span, *weights: Value) -> None:
        """A weight that is itself computed may read a channel where no parameter of it does."""
        if not all(value.memory.is_weight for value in weights):
            summed.mix(f"computed weights in {self.where}")

    def note_weight(self, value: Value, *, reads: Sequence[int]) -> None:
        """Note that of a weight some dimensions read channels and the others compute them."""
        for dim, origin in enumerate(value.origins):
            (self.readers if dim in reads else self.writers).append(origin)

    def tie(self, module: str, attribute: str, span: Span, index: int | None = None, times: int = 1) -> None:
        """Note that a module keeps the size of a span, or a multiple, as a number; ignored where it does not."""
        value = getattr(self.modules.get(module), attribute, None)
        if index is not None and isinstance(value, list | tuple) and index < len(value):
            value = value[index]
        if value == span.size * times:
            self.ties.append(Tie(module, attribute, index, span, times))

    def unify_ties(self) -> None:
        """Make dimensions one whose sizes are the same number of a module: it can have one value only."""
        first: dict[tuple[str, str, int | None], Tie] = {}
        for own in self.ties:
            known = first.setdefault((own.module, own.attribute, own.index), own)
            if known.times == own.times:
                unify(known.span, own.span)


def _overlapping(
    before: Sequence[int], after: Sequence[int], origins: Sequence[frozenset[Origin]]
) -> list[frozenset[Origin]]:
    """Bring origins through a reshape: each new dimension has those of all it was made from."""
    if not any(origins):
        return [frozenset()] * len(after)
    sources = list(zip(_reaches(before), origins, strict=True))
    found = []
    for low, high in _reaches(after):
        met = [own for (start, end), own in sources if max(low, start) < min(high, end)]
        found.append(frozenset().union(*met))
    return found


def _reaches(sizes: Sequence[int]) -> list[tuple[int, int]]:
    ends = [prod(sizes[: place + 1]) for place in range(len(sizes))]
    return list(zip([1, *ends[:-1]], ends, strict=True))
