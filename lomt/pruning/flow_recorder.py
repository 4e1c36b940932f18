"""Run a network once and note which operation reads what, and inside which module it runs."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as module_hooks
from torch.utils.weak import WeakTensorKeyDictionary

from lomt.pruning.constant_rules import (
    SHAPE_ONLY,
    even_values,
    ignored_operands,
    is_zero,
    keeps_even,
    operation_name,
)
from lomt.pruning.data_flow import Flow, ModuleCall, Operation
from lomt.structure import Inputs, OperationWatch, named_outputs, named_tensors, run_model
from lomt.structure.operations import tensors_in

__all__ = ["record_flow"]


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


class _Recorder(OperationWatch):
    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        super().__init__()
        self.flow = Flow([Operation("inputs", (), (), (), is_live=True, is_dead=False, is_even=False)])
        self._cells: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self._is_paused = False
        self._counts: dict[nn.Module, int] = {}
        self._open: list[tuple[int, tuple[int | None, tuple[int, ...]] | None]] = []
        self._found: list[tuple[nn.Module, ModuleCall]] = []
        self._paths = _paths(model)
        for tensor in named_tensors(model).values():
            self._cells[tensor] = _Cell(is_kept=True)
        given = inputs.values() if isinstance(inputs, Mapping) else inputs
        for tensor in tensors_in([given] if isinstance(given, Tensor) else list(given)):
            self._cells[tensor] = _Cell(0)

    def cell(self, tensor: Tensor) -> _Cell:
        known: _Cell | None = self._cells.get(tensor)
        if known is None:
            known = self._cells[tensor] = _Cell()
        return known

    def carry_out(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._is_paused:
            return func(*args, **kwargs)
        given = {
            own.name: args[place] if place < len(args) else kwargs.get(own.name)
            for place, own in enumerate(func._schema.arguments)
        }
        ignored = ignored_operands(func, given, self._is_constant)  # before an in-place operation changes it
        zero_added = self._zero_added(func, given)
        result = func(*args, **kwargs)
        self._note(func, given, tensors_in([result]), ignored, zero_added)
        return result

    def _is_constant(self, tensor: Tensor) -> bool:
        operation = self.cell(tensor).operation
        return operation is None or not self.flow.operations[operation].is_live

    def _zero_added(self, func: Any, given: Mapping[str, Any]) -> Tensor | None:
        """The other operand, where zeros of no consequence are added to it."""
        left, right = given.get("self"), given.get("other")
        if (
            operation_name(func) not in ("add", "sub")
            or not isinstance(left, Tensor)
            or not isinstance(right, Tensor)
        ):
            return None
        for zeros, other in ((right, left), (left, right))[: 1 if operation_name(func) == "sub" else 2]:
            operation = self.cell(zeros).operation
            if operation is not None and self.flow.operations[operation].is_dead and is_zero(zeros):
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
        operand = [] if operation_name(func) in SHAPE_ONLY else tensors_in(given.values())
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
                name=operation_name(func),
                reads=tuple(reads),
                ignores=tuple(ignores),
                shape=tuple(results[0].shape) if results else (),
                is_live=is_live,
                is_dead=not is_live and _dies(operations, [own for own, _ in reads], list(ignores)),
                is_even=all(operations[own].is_even for own, _ in reads) and keeps_even(func, given, ignored),
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
        hooks: list[Any] = [
            module_hooks.register_module_forward_pre_hook(self._enter),
            module_hooks.register_module_forward_hook(self._leave, always_call=True),
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        given = None
        if args and isinstance(args[0], Tensor):
            given = self.cell(args[0]).operation, tuple(args[0].shape)
        self._open.append((len(self.flow.operations), given))
        self._counts[module] = self._counts.get(module, 0) + 1
        self.flow.called.update(self._paths.get(module, ()))

    def _leave(self, module: nn.Module, _: Any, result: Any) -> None:
        start, given = self._open.pop()
        stop = len(self.flow.operations)
        paths = self._paths.get(module, [])
        if (
            len(paths) != 1
            or not paths[0]
            or given is None
            or start == stop
            or not isinstance(result, Tensor)
        ):
            return
        operation = self.cell(result).operation
        dim, values = None, None
        if operation is not None and self.flow.operations[operation].is_dead:
            self._is_paused = True
            dim, values = even_values(result) if self.flow.operations[operation].is_even else (None, None)
            self._is_paused = False
        returned = operation, tuple(result.shape)
        self._found.append((module, ModuleCall(paths[0], start, stop, given, returned, dim, values)))

    def finish(self) -> None:
        """Keep the calls of modules that were called once; outer ones come first."""
        once = [call for module, call in self._found if self._counts[module] == 1]
        self.flow.calls = sorted(once, key=lambda call: (call.start, -call.stop, call.path.count(".")))


def _paths(model: nn.Module) -> dict[nn.Module, list[str]]:
    paths: dict[nn.Module, list[str]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        paths.setdefault(module, []).append(path)
    return paths


def _aliased(func: Any, given: Mapping[str, Any]) -> tuple[list[Tensor], list[Tensor]]:
    """Operands that are written, and operands of which the results are views."""
    written: list[Tensor] = []
    viewed: list[Tensor] = []
    for own in func._schema.arguments:
        if own.alias_info is not None:
            (written if own.alias_info.is_write else viewed).extend(tensors_in([given[own.name]]))
    return written, viewed


def _is_random(func: Any) -> bool:
    return torch.Tag.nondeterministic_seeded in func.tags and operation_name(func) != "native_dropout"


def _dies(operations: Sequence[Operation], reads: Sequence[int], ignores: Sequence[int]) -> bool:
    is_cut = any(operations[own].is_live or operations[own].is_dead for own in ignores)
    return is_cut or any(operations[own].is_dead for own in reads)
