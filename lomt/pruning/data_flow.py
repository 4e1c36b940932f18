"""One run of a network as a graph of operations: what depends on the inputs, and which module computes what.

An operation that multiplies something by zeros (a convolution whose weights are all zero, a norm or layer scale
at zero) does not depend on what it multiplies. What follows from such an operation alone is *dead*: a constant,
whatever the inputs are.
"""

from dataclasses import dataclass, field

from torch import Tensor

__all__ = ["Flow", "ModuleCall", "Operation"]


@dataclass(frozen=True)
class Operation:
    """One operation; others are named by their place in the run.

    Args:
        name: ATen's, without the underscore of the in-place form.
        reads: Operations on whose results its own depends, with the shapes in which it reads them.
        ignores: Operations whose results it reads and multiplies by zeros.
        shape: Of its first result.
        is_live: Whether it depends on the inputs.
        is_dead: Whether it does not, only because something is ignored.
        is_even: Whether it surely puts out the same at all positions, given that what it reads is even.
        overwrites: The operation into whose result it writes.
        same_as: The operation whose values it puts out unchanged, because it adds zeros.
    """

    name: str
    reads: tuple[tuple[int, tuple[int, ...]], ...]
    ignores: tuple[int, ...]
    shape: tuple[int, ...]
    is_live: bool
    is_dead: bool
    is_even: bool
    overwrites: int | None = None
    same_as: int | None = None


@dataclass(frozen=True)
class ModuleCall:
    """One call of a module with one name that takes a tensor first and returns a tensor.

    Args:
        path: Dotted name.
        start: First operation that ran inside.
        stop: The one after the last.
        given: The operation that computed the argument, and its shape.
        returned: The operation that computed the result, and its shape.
        channel_dim: The only dimension along which a dead result varies; ``None`` where it varies nowhere.
        values: A dead result along ``channel_dim``, or a single value; ``None`` where the result is alive, or
            differs between positions.
    """

    path: str
    start: int
    stop: int
    given: tuple[int | None, tuple[int, ...]]
    returned: tuple[int | None, tuple[int, ...]]
    channel_dim: int | None = None
    values: Tensor | None = None

    def holds(self, operation: int) -> bool:
        """Whether an operation ran inside."""
        return self.start <= operation < self.stop


@dataclass
class Flow:
    """A recorded run.

    Args:
        operations: In their order; the first stands for the inputs.
        calls: Those of modules that were called once, in the order in which they began: outer ones first.
        called: All modules that were called.
        roots: Operations that are needed: outputs, and what changes the network's own tensors or steers Python.
        outputs: Those of them that compute outputs.
    """

    operations: list[Operation] = field(default_factory=list)
    calls: list[ModuleCall] = field(default_factory=list)
    called: set[str] = field(default_factory=set)
    roots: set[int] = field(default_factory=set)
    outputs: set[int] = field(default_factory=set)

    def same(self, operation: int | None) -> int | None:
        """Return the first operation with the same values."""
        while operation is not None and (earlier := self.operations[operation].same_as) is not None:
            operation = earlier
        return operation
