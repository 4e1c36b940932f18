"""Run a network once and note, operation by operation, which channels hang together."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as module_hooks

from lomt.errors import LomtError
from lomt.structure.operation_watch import OperationWatch
from lomt.structure.operations import Call, arguments_by_name, follow, tensors_in
from lomt.structure.recording import Memory, Recording
from lomt.structure.sizes import SizeWatch, watched_sizes

__all__ = ["Inputs", "TraceError", "named_outputs", "named_tensors", "record", "run_model"]

Inputs = Tensor | Sequence[Tensor] | Mapping[str, Tensor]
"""One tensor, several in their order, or by the names of ``forward``'s arguments."""


class TraceError(LomtError, ValueError):
    """A model that does not run on its example inputs, or puts out nothing to prune for."""


def run_model(model: nn.Module, inputs: Inputs) -> Any:
    """Call a model on one tensor, several, or several by name."""
    if isinstance(inputs, Tensor):
        return model(inputs)
    return model(**inputs) if isinstance(inputs, Mapping) else model(*inputs)


def named_outputs(outputs: Any) -> dict[str, Tensor]:
    """Flatten what a model returns to tensors by dotted name: keys, fields, positions.

    Args:
        outputs: Tensor, or nested dict, list, tuple, named tuple or dataclass of tensors; anything else in
            them is left out.
    """
    if isinstance(outputs, Tensor):
        return {"output": outputs}
    return dict(_flatten(outputs, ""))


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters, buffers and the tensors that modules keep as plain attributes, by dotted name.

    A tensor under two names is listed under both.
    """
    found: dict[str, Tensor] = {}
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        for entries in (module._parameters, module._buffers, vars(module)):
            for name, value in entries.items():
                if isinstance(value, Tensor):
                    found[f"{prefix}{name}"] = value
    return found


def record(model: nn.Module, inputs: Inputs) -> tuple[Recording, dict[str, Tensor]]:
    """Run the model and note everything.

    Args:
        model: In eval mode; not changed.
        inputs: Example inputs.

    Returns:
        The recording, and the outputs by name.

    Raises:
        TraceError: The model does not run on these inputs.
    """
    tensors = named_tensors(model)
    recording = Recording(tuple(tensors), dict(model.named_modules(remove_duplicate=False)))
    for name, tensor in tensors.items():
        recording.add_weight(name, tensor)
    for tensor in tensors_in(list(inputs.values()) if isinstance(inputs, Mapping) else inputs):
        recording.add_input(tensor)
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(watched_sizes(model))
        stack.enter_context(_scopes(recording))
        stack.enter_context(SizeWatch(recording))
        stack.enter_context(_Watch(recording))
        outputs = _outputs(model, inputs)
    if not outputs:
        raise TraceError(
            "Expected the model to return a tensor, or tensors in a dict, list, tuple or dataclass, but got none."
        )
    if not any(tensor.is_floating_point() or tensor.is_complex() for tensor in outputs.values()):
        told = ", ".join(f"`{name}` is {tensor.dtype}" for name, tensor in outputs.items())
        raise TraceError(
            f"Expected an output of a floating-point type, but {told}. "
            "Return what the labels are taken from, such as the logits before an argmax."
        )
    recording.unify_ties()
    for name, tensor in outputs.items():
        for span in recording.value(tensor).spans:
            span.fix(f"output `{name}` of the network")
    return recording, outputs


def _outputs(model: nn.Module, inputs: Inputs) -> dict[str, Tensor]:
    try:
        return named_outputs(run_model(model, inputs))
    except Exception as error:  # the model's own code runs: anything may be raised
        tensors = list(inputs.values()) if isinstance(inputs, Mapping) else tensors_in(inputs)
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors)
        text = str(error).strip().splitlines()
        raise TraceError(
            f"Expected the model to run on example inputs of shape {shapes}, but it raised "
            f"{type(error).__name__}: {text[0] if text else ''}"
        ) from error


class _Watch(OperationWatch):
    def __init__(self, recording: Recording) -> None:
        super().__init__()
        self._recording = recording

    def carry_out(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = func(*args, **kwargs)
        arguments = arguments_by_name(func, args, kwargs)
        follow(Call(self._recording, func, arguments, result, self._memory(func, arguments)))
        return result

    def _memory(self, func: Any, arguments: Mapping[str, Any]) -> Memory:
        """What flows into the results: a view's and an in-place operation's are their operand's."""
        flow = Memory()
        aliased: Memory | None = None
        for argument in func._schema.arguments:
            for tensor in tensors_in([arguments.get(argument.name)]):
                memory = self._recording.value(tensor).memory
                flow.absorb(memory)
                if argument.alias_info is not None and aliased is None:
                    aliased = memory
        if aliased is None:
            return flow
        aliased.absorb(flow)
        return aliased


@contextmanager
def _scopes(recording: Recording) -> Iterator[None]:
    def enter(module: nn.Module, _: Any) -> None:
        path = recording.paths.get(module, recording.layer)
        recording.scope.append(path)
        recording.called[path] = None

    def leave(module: nn.Module, _: Any, __: Any) -> None:
        recording.scope.pop()

    hooks = [
        module_hooks.register_module_forward_pre_hook(enter),
        module_hooks.register_module_forward_hook(leave, always_call=True),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _flatten(value: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield prefix, value
        return
    for name, entry in _entries(value):
        yield from _flatten(entry, f"{prefix}.{name}" if prefix else str(name))


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        yield from ((str(name), entry) for name, entry in value.items())
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        yield from zip(value._fields, value, strict=True)
    elif isinstance(value, list | tuple):
        yield from ((str(place), entry) for place, entry in enumerate(value))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from ((entry.name, getattr(value, entry.name)) for entry in dataclasses.fields(value))
