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
from collections.abc import Sequence
from dataclasses import dataclass
from types import FunctionType, MethodType

from torch import nn

from lomt.errors import ArtifactError
from lomt.structure.spans import Span

__all__ = ["FreeSize", "WrittenSize", "free_sizes", "source_checksum"]


@dataclass(frozen=True)
class WrittenSize:
    """Dimensions that a reshape is given as plain numbers.

    Args:
        module: Dotted path.
        function: Method of the module that calls the reshape.
        line: Of the call, counted from the method's first.
        dims: The dimensions.
        spans: Of all dimensions of the result.
    """

    module: str
    function: str
    line: int
    dims: tuple[int, ...]
    spans: tuple[Span, ...]

    @property
    def free(self) -> "FreeSize | None":
        """The reshape with the one dimension of channels left free; ``None`` if there is not just one.

        To be asked once the whole network has run: what is fixed later counts.
        """
        dims = [dim for dim in self.dims if any(leaf.fixed is None for leaf in self.spans[dim].leaves())]
        return FreeSize(self.line, dims[0], len(self.spans)) if len(dims) == 1 else None


@dataclass(frozen=True)
class FreeSize:
    """A reshape to be given -1 for one of its dimensions.

    Args:
        line: Of the call, counted from the method's first.
        dim: The dimension.
        count: How many dimensions the reshape has.
    """

    line: int
    dim: int
    count: int


def source_checksum(module: nn.Module, function: str) -> str | None:
    """Return a checksum of a method's source; ``None`` where it cannot be written anew.

    That is the case without source, and for methods with decorators or with variables of an outer function.
    """
    method = getattr(type(module), function, None)
    if not isinstance(method, FunctionType) or method.__closure__ or function in vars(module):
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
    tree = ast.parse(textwrap.dedent(inspect.getsource(method)))
    for call in calls:
        _leave_free(tree, call, f"{type(module).__name__}.{function}")
    made: dict[str, FunctionType] = {}
    code = compile(ast.fix_missing_locations(tree), method.__code__.co_filename, "exec")
    exec(code, method.__globals__, made)  # the class's own source, its own names
    own = made[function]
    own.__defaults__, own.__kwdefaults__ = method.__defaults__, method.__kwdefaults__
    vars(module)[function] = MethodType(own, module)


def _leave_free(tree: ast.AST, call: FreeSize, where: str) -> None:
    fitting = [
        sizes
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and node.lineno <= call.line + 1 <= (node.end_lineno or node.lineno)
        if (sizes := _sizes(node)) is not None and len(sizes) == call.count
    ]
    fitting = [sizes for sizes in fitting if not any(_is_free(size) for size in sizes)]
    if len(fitting) != 1:
        raise ArtifactError(
            f"Expected one reshape to {call.count} dimensions in line {call.line} of `{where}`, but got {len(fitting)}."
        )
    fitting[0][call.dim] = ast.UnaryOp(ast.USub(), ast.Constant(1))


def _sizes(node: ast.Call) -> list[ast.expr] | None:
    """The sizes that a call of ``.reshape`` or ``.view`` is given."""
    if not isinstance(node.func, ast.Attribute) or node.func.attr not in ("reshape", "view") or node.keywords:
        return None
    if len(node.args) == 1 and isinstance(node.args[0], ast.Tuple | ast.List):
        return node.args[0].elts
    return None if any(isinstance(size, ast.Starred) for size in node.args) else node.args


def _is_free(size: ast.expr) -> bool:
    return isinstance(size, ast.UnaryOp) and isinstance(size.op, ast.USub)
