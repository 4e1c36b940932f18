"""One run of a network as a graph of operations: what depends on the inputs, and which module computes what.

An operation that multiplies something by zeros (a convolution whose weights are all zero, a norm or layer scale
at zero) does not depend on what it multiplies. What follows from such an operation alone is *dead*: a constant,
whatever the inputs are.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as module_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from lomt.structure import Inputs, named_outputs, named_tensors, run_model

__all__ = ["Flow", "ModuleCall", "Operation", "record_flow"]


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
    """One call of a module that takes a tensor first and returns a tensor.

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


def record_flow(model: nn.Module, inputs: Inputs) -> Flow:
    """Run a model once and note every operation.

    Args:
        model: In eval mode.
        inputs: Example inputs.
    """
    recorder = _Recorder(model, inputs)
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(recorder.hooks())
        stack.enter_context(recorder)
        outputs = run_model(model, inputs)
    for tensor in named_outputs(outputs).values():
        if (operation := recorder.cell(tensor).operation) is not None:
            recorder.flow.outputs.add(operation)
    recorder.flow.roots |= recorder.flow.outputs
    recorder.finish()
    return recorder.flow


@dataclass
class _Cell:
    """What last wrote into a piece of memory; views share it."""

    operation: int | None = None
    is_kept: bool = False


class _Recorder(TorchDispatchMode):
    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        super().__init__()
        self.flow = Flow([Operation("inputs", (), (), (), is_live=True, is_dead=False, is_even=False)])
        self._cells: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self._is_paused = False
        self._counts: dict[str, int] = {}
        self._open: list[tuple[str | None, int, tuple[int | None, tuple[int, ...]] | None]] = []
        self._found: list[ModuleCall] = []
        self._paths = _single_paths(model)
        for tensor in named_tensors(model).values():
            self._cells[tensor] = _Cell(is_kept=True)
        given = inputs.values() if isinstance(inputs, Mapping) else inputs
        for tensor in _tensors([given] if isinstance(given, Tensor) else list(given)):
            self._cells[tensor] = _Cell(0)

    def cell(self, tensor: Tensor) -> _Cell:
        known: _Cell | None = self._cells.get(tensor)
        if known is None:
            known = self._cells[tensor] = _Cell()
        return known

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if self._is_paused:
            return func(*args, **kwargs)
        given = {
            own.name: args[place] if place < len(args) else kwargs.get(own.name)
            for place, own in enumerate(func._schema.arguments)
        }
        ignored = _ignored(func, given, self._is_constant)  # before an in-place operation changes it
        zero_added = self._zero_added(func, given)
        result = func(*args, **kwargs)
        self._note(func, given, _tensors([result]), ignored, zero_added)
        return result

    def _is_constant(self, tensor: Tensor) -> bool:
        operation = self.cell(tensor).operation
        return operation is None or not self.flow.operations[operation].is_live

    def _zero_added(self, func: Any, given: Mapping[str, Any]) -> Tensor | None:
        """The other operand, where zeros of no consequence are added to it."""
        left, right = given.get("self"), given.get("other")
        if _name(func) not in ("add", "sub") or not isinstance(left, Tensor) or not isinstance(right, Tensor):
            return None
        for zeros, other in ((right, left), (left, right))[: 1 if _name(func) == "sub" else 2]:
            operation = self.cell(zeros).operation
            if operation is not None and self.flow.operations[operation].is_dead and _is_zero(zeros):
                return other
        return None

    def _note(
        self,
        func: Any,
        given: Mapping[str, Any],
        results: list[Tensor],
        ignored: list[Tensor],
        zero_added: Tensor | None,
    ) -> None:
        written, viewed = _aliased(func, given)
        if viewed and not written:
            for tensor in results:
                self._cells[tensor] = self.cell(viewed[0])
            return
        operand = [] if _name(func) in _SHAPE_ONLY else _tensors(given.values())
        skipped = {id(tensor) for tensor in ignored}
        reads = {
            (own, tuple(tensor.shape)): None
            for tensor in operand
            if id(tensor) not in skipped and (own := self.cell(tensor).operation) is not None
        }
        ignores = {own for tensor in ignored if (own := self.cell(tensor).operation) is not None}
        operations = self.flow.operations
        is_live = any(operations[own].is_live for own, _ in reads) or _is_random(func)
        behind = [*(own for own, _ in reads), *ignores]
        number = len(operations)
        is_same = zero_added is not None and results[0].shape == zero_added.shape
        operations.append(
            Operation(
                name=_name(func),
                reads=tuple(reads),
                ignores=tuple(ignores),
                shape=tuple(results[0].shape) if results else (),
                is_live=is_live,
                is_dead=not is_live and _dies(operations, [own for own, _ in reads], list(ignores)),
                is_even=all(operations[own].is_even for own, _ in reads) and _keeps_even(func, given, ignored),
                overwrites=self.cell(written[0]).operation if written else None,
                same_as=self.cell(zero_added).operation if is_same and zero_added is not None else None,
            )
        )
        if not results or any(self.cell(tensor).is_kept for tensor in written):
            self.flow.roots.add(number)
        assert all(own < number for own in behind)
        for tensor in written:
            self.cell(tensor).operation = number
        for tensor in results:
            self._cells[tensor] = self.cell(written[0]) if written else _Cell(number)

    @contextmanager
    def hooks(self) -> Iterator[None]:
        hooks: list[Callable[..., Any]] = [
            module_hooks.register_module_forward_pre_hook(self._enter),
            module_hooks.register_module_forward_hook(self._leave, always_call=True),
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()  # type: ignore[attr-defined]

    def _enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        path = self._paths.get(module)
        given = None
        if args and isinstance(args[0], Tensor):
            given = self.cell(args[0]).operation, tuple(args[0].shape)
        self._open.append((path, len(self.flow.operations), given))
        if path is not None:
            self._counts[path] = self._counts.get(path, 0) + 1

    def _leave(self, module: nn.Module, _: Any, result: Any) -> None:
        path, start, given = self._open.pop()
        stop = len(self.flow.operations)
        if not path or given is None or start == stop or not isinstance(result, Tensor):
            return
        operation = self.cell(result).operation
        dim, values = None, None
        if operation is not None and self.flow.operations[operation].is_dead:
            self._is_paused = True
            dim, values = _even_values(result) if self.flow.operations[operation].is_even else (None, None)
            self._is_paused = False
        returned = operation, tuple(result.shape)
        self._found.append(ModuleCall(path, start, stop, given, returned, dim, values))

    def finish(self) -> None:
        """Keep the calls of modules that were called once; outer ones come first."""
        once = [call for call in self._found if self._counts[call.path] == 1]
        self.flow.calls = sorted(once, key=lambda call: (call.start, -call.stop, call.path.count(".")))
        self.flow.called = set(self._counts)


def _single_paths(model: nn.Module) -> dict[nn.Module, str]:
    paths: dict[nn.Module, list[str]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        paths.setdefault(module, []).append(path)
    return {module: own[0] for module, own in paths.items() if len(own) == 1}


def _name(func: Any) -> str:
    name = str(func.overloadpacket.__name__)
    return name[:-1] if name.endswith("_") and not name.startswith("__") else name


def _tensors(values: Any) -> list[Tensor]:
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += _tensors(value)
    return found


def _aliased(func: Any, given: Mapping[str, Any]) -> tuple[list[Tensor], list[Tensor]]:
    """Operands that are written, and operands of which the results are views."""
    written: list[Tensor] = []
    viewed: list[Tensor] = []
    for own in func._schema.arguments:
        if own.alias_info is not None:
            (written if own.alias_info.is_write else viewed).extend(_tensors([given[own.name]]))
    return written, viewed


def _is_random(func: Any) -> bool:
    return torch.Tag.nondeterministic_seeded in func.tags and _name(func) != "native_dropout"


def _dies(operations: Sequence[Operation], reads: Sequence[int], ignores: Sequence[int]) -> bool:
    is_cut = any(operations[own].is_live or operations[own].is_dead for own in ignores)
    return is_cut or any(operations[own].is_dead for own in reads)


def _is_zero(tensor: Tensor) -> bool:
    return tensor.numel() > 0 and not bool(tensor.any())


_FACTORS: Mapping[str, tuple[str, ...]] = {
    "convolution": ("input", "weight"),
    "_convolution": ("input", "weight"),
    "linear": ("input", "weight"),
    "mm": ("self", "mat2"),
    "bmm": ("self", "mat2"),
    "mv": ("self", "vec"),
    "addmm": ("mat1", "mat2"),
    "baddbmm": ("batch1", "batch2"),
    "mul": ("self", "other"),
    "native_batch_norm": ("input", "weight"),
    "_native_batch_norm_legit_no_training": ("input", "weight"),
    "cudnn_batch_norm": ("input", "weight"),
    "_batch_norm_no_update": ("input", "weight"),
    "native_layer_norm": ("input", "weight"),
    "native_group_norm": ("input", "weight"),
}
"""Operands that are multiplied with each other; what else an operation has is added."""

_SHAPE_ONLY = frozenset(
    "zeros_like ones_like empty_like full_like new_zeros new_ones new_empty new_full new_empty_strided".split()
)

_EVEN = frozenset(
    "convolution _convolution linear mm addmm mv native_batch_norm _native_batch_norm_legit_no_training "
    "cudnn_batch_norm _batch_norm_no_update native_layer_norm native_group_norm mean clone _to_copy cat stack "
    "adaptive_avg_pool2d _adaptive_avg_pool2d adaptive_max_pool2d max_pool2d_with_indices max_pool2d avg_pool2d "
    "upsample_nearest2d upsample_bilinear2d _unsafe_view native_dropout _prelu_kernel prelu constant_pad_nd".split()
)
"""Operations that put out the same everywhere when all they read is the same everywhere, whatever the size."""


def _ignored(func: Any, given: Mapping[str, Any], is_constant: Callable[[Tensor], bool]) -> list[Tensor]:
    """Operands that are multiplied by constant zeros."""
    factors = [given.get(name) for name in _FACTORS.get(_name(func), ())]
    tensors = [own for own in factors if isinstance(own, Tensor)]
    for zeros in tensors:
        if len(tensors) == 2 and is_constant(zeros) and _is_zero(zeros):
            return [own for own in tensors if own is not zeros]
    return []


def _keeps_even(func: Any, given: Mapping[str, Any], ignored: list[Tensor]) -> bool:
    name = _name(func)
    if name not in _EVEN and torch.Tag.pointwise not in func.tags:
        return False
    features = given.get("input", given.get("self"))
    is_padded = any(given.get("padding") or ()) or given.get("transposed") or name == "constant_pad_nd"
    if "conv" in name or name in ("avg_pool2d", "constant_pad_nd"):
        is_nothing = features is not None and (any(own is features for own in ignored) or _is_zero(features))
        return not is_padded or (is_nothing and not given.get("value"))
    return True


def _even_values(tensor: Tensor) -> tuple[int | None, Tensor | None]:
    """Return the only dimension along which a tensor varies, and its values along it."""
    dims = [dim for dim in range(1, tensor.ndim) if not _is_even_along(tensor, dim)]
    if not tensor.is_floating_point() or tensor.ndim < 2 or len(dims) > 1 or not _is_even_along(tensor, 0):
        return None, None
    if not dims:
        return None, tensor.flatten()[:1].clone()
    index: list[Any] = [0] * tensor.ndim
    index[dims[0]] = slice(None)
    return dims[0], tensor[tuple(index)].clone()


def _is_even_along(tensor: Tensor, dim: int) -> bool:
    first = tensor.narrow(dim, 0, 1)
    # Vectorised arithmetic may round the last positions of a row differently.
    slack = 8 * torch.finfo(tensor.dtype).eps if tensor.is_floating_point() else 0.0
    return torch.allclose(tensor, first.expand_as(tensor), rtol=slack, atol=0.0)
