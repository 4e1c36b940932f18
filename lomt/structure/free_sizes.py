"""Sizes that a ``forward`` writes out although they follow from the data, and a ``forward`` that leaves them free.

``batch, tokens, dim = x.shape`` at the top of an attention and ``.reshape(batch, tokens, dim)`` at its end say
that all heads together are as wide as the input. Once heads are gone that is no longer so, and no attribute can
mend it. ``.reshape(batch, tokens, -1)`` computes the same for the whole network and holds for the smaller one too.
Such a ``forward`` is made from the module's own source, for this one module.
"""

import ast
import hashlib
import inspect
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FunctionType, MethodType
from typing import Any

from torch import nn

from lomt.errors import ArtifactError
from lomt.structure.spans import Span

__all__ = ["FreeSize", "WrittenSize", "can_free", "free_sizes", "source_checksum"]

_CALLS = "_lomt_free_sizes"
"""Attribute of a method made here: which reshapes differ from the class's own."""


@dataclass(frozen=True)
class WrittenSize:
    """Dimensions that a reshape is given as plain numbers.

    Args:
        module: Dotted path.
        function: Method of the module that calls the reshape.
        line: Of the call, counted from the method's first.
        dims: The dimensions.
        spans: Of all dimensions of the result.
        has_free: Whether one of the others is given as -1.
    """

    module: str
    function: str
    line: int
    dims: tuple[int, ...]
    spans: tuple[Span, ...]
    has_free: bool = False

    @property
    def channels(self) -> tuple[int, ...]:
        """Those of the dimensions that have channels which may go.

        To be asked once the whole network has run: what is fixed later counts.
        """
        return tuple(dim for dim in self.dims if any(leaf.fixed is None for leaf in self.spans[dim].leaves()))

    def calls(self, size: Callable[[Span], int]) -> tuple["FreeSize", ...]:
        """Return what to write instead: -1 for a single dimension, else the new sizes.

        Args:
            size: New size of a span.
        """
        count, dims = len(self.spans), self.channels
        if len(dims) == 1 and not self.has_free:
            return (FreeSize(self.line, dims[0], count),)
        return tuple(FreeSize(self.line, dim, count, size(self.spans[dim])) for dim in dims)


@dataclass(frozen=True)
class FreeSize:
    """A reshape to be given -1, or another number, for one of its dimensions.

    Args:
        line: Of the call, counted from the method's first.
        dim: The dimension.
        count: How many dimensions the reshape has.
        size: The number; ``None`` for -1.
    """

    line: int
    dim: int
    count: int
    size: int | None = None


def source_checksum(module: nn.Module, function: str) -> str | None:
    """Return a checksum of a method's source; ``None`` where it cannot be written anew.

    That is the case without source, and for methods with decorators or with variables of an outer function.
    """
    method = getattr(type(module), function, None)
    own = vars(module).get(function)
    if not isinstance(method, FunctionType) or method.__closure__ or (own is not None and not _made(own)):
        return None
    try:
        source = inspect.getsource(method)
    except (OSError, TypeError):
        return None
    if source.lstrip().startswith("@"):
        return None
    return hashlib.sha256(source.encode()).hexdigest()


def free_sizes(module: nn.Module, function: str, calls: Sequence[FreeSize], checksum: str) -> None:
    """Give this one module a method whose reshapes leave sizes free; everything else in it stays.

    Args:
        module: Changed in place.
        function: Name of the method.
        calls: Which reshapes.
        checksum: Of the source for which the calls were found.

    Raises:
        ArtifactError: The method's source is another, or has no such calls.
    """
    if source_checksum(module, function) != checksum:
        raise ArtifactError(
            f"Expected `{type(module).__name__}.{function}` as it was when the model was pruned, but its source is "
            "another. Install the version of its package that was used then."
        )
    method: FunctionType = getattr(type(module), function)
    tree = _tree(method)
    known = {(call.line, call.dim, call.count): call for call in (*_made(vars(module).get(function)), *calls)}
    for call in known.values():
        _leave_free(tree, call, f"{type(module).__name__}.{function}")
    made: dict[str, FunctionType] = {}
    code = compile(ast.fix_missing_locations(tree), method.__code__.co_filename, "exec")
    exec(code, method.__globals__, made)  # the class's own source, its own names
    own = made[function]
    own.__defaults__, own.__kwdefaults__ = method.__defaults__, method.__kwdefaults__
    setattr(own, _CALLS, tuple(known.values()))
    vars(module)[function] = MethodType(own, module)


def can_free(module: nn.Module, written: WrittenSize) -> bool:
    """Say whether the reshape can be found in the method's source."""
    if source_checksum(module, written.function) is None:
        return False
    tree = _tree(getattr(type(module), written.function))
    return len(_fitting(tree, written.line, len(written.spans))) == 1


def _tree(method: FunctionType) -> ast.Module:
    return ast.parse(textwrap.dedent(inspect.getsource(method)))


def _leave_free(tree: ast.AST, call: FreeSize, where: str) -> None:
    fitting = _fitting(tree, call.line, call.count)
    if len(fitting) != 1:
        raise ArtifactError(
            f"Expected one reshape to {call.count} dimensions in line {call.line} of `{where}`, "
            f"but got {len(fitting)}."
        )
    free = ast.UnaryOp(ast.USub(), ast.Constant(1))
    fitting[0][call.dim] = free if call.size is None else ast.Constant(call.size)


def _fitting(tree: ast.AST, line: int, count: int) -> list[list[ast.expr]]:
    """The sizes of the reshapes to so many dimensions in a line, counted from the method's first."""
    return [
        sizes
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and node.lineno <= line + 1 <= (node.end_lineno or node.lineno)
        if (sizes := _sizes(node)) is not None and len(sizes) == count
    ]


def _made(method: Any) -> tuple[FreeSize, ...]:
    """The reshapes that differ in a method made here."""
    calls: tuple[FreeSize, ...] = getattr(method, _CALLS, ())
    return calls


def _sizes(node: ast.Call) -> list[ast.expr] | None:
    """The sizes that a call of ``.reshape`` or ``.view`` is given."""
    if not isinstance(node.func, ast.Attribute) or node.func.attr not in ("reshape", "view") or node.keywords:
        return None
    if len(node.args) == 1 and isinstance(node.args[0], ast.Tuple | ast.List):
        return node.args[0].elts
    return None if any(isinstance(size, ast.Starred) for size in node.args) else node.args
