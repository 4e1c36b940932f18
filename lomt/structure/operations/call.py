"""One tensor operation as it was met: its arguments by name, and what came out."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from lomt.structure.recording import Memory, Recording, Value
from lomt.structure.spans import Span

__all__ = ["Call", "arguments_by_name", "fix", "operation_name", "tensors_in", "unknown"]


class Call:
    """One operation: its arguments by name, and what came out.

    Args:
        recording: What is known so far.
        function: The operation.
        arguments: By the names of its schema.
        result: What it returned.
        memory: What flows into the results.
    """

    def __init__(
        self, recording: Recording, function: Any, arguments: Mapping[str, Any], result: Any, memory: Memory
    ) -> None:
        self.recording, self.function, self.arguments = recording, function, arguments
        self.name = operation_name(function)
        self.results = tensors_in(result)
        self.memory = memory

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def value(self, name: str) -> Value | None:
        """Return an operand, ``None`` where it was not given."""
        tensor = self.arguments.get(name)
        return self.recording.value(tensor) if isinstance(tensor, Tensor) else None

    def operand(self, *names: str) -> Value:
        """Return the operand with the first of these names, or the first operand at all."""
        for name in names:
            if (value := self.value(name)) is not None:
                return value
        return self.operands[0]

    @property
    def operands(self) -> list[Value]:
        """All tensors among the arguments, in their order."""
        return [self.recording.value(tensor) for tensor in tensors_in(self.arguments.values())]

    def put(
        self,
        spans: Sequence[Span],
        origins: Sequence[Any] = (),
        *,
        place: int = 0,
        memory: Memory | None = None,
    ) -> None:
        """Make one of the results known."""
        if place >= len(self.results):
            return
        memory = memory or self.memory
        kept = [frozenset()] * len(spans) if memory.is_live or not origins else origins
        self.recording.put(self.results[place], spans, kept, memory)

    def put_value(self, value: Value, place: int = 0) -> None:
        """Make one of the results known."""
        self.put(value.spans, value.origins, place=place)

    def put_unknown(self, reason: str | None, start: int = 0) -> None:
        """Make the results from ``start`` on known as tensors with dimensions of their own."""
        for place in range(start, len(self.results)):
            self.put([Span(size, reason) for size in self.results[place].shape], place=place)


def tensors_in(values: Any) -> list[Tensor]:
    """Collect the tensors in nested lists and tuples."""
    found: list[Tensor] = []
    if isinstance(values, Tensor):
        return [values]
    for value in values if isinstance(values, Iterable) else ():
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += tensors_in(value)
    return found


def operation_name(function: Any) -> str:
    """Return the name without overload; ``add`` for ``add_`` as well."""
    name = str(function.overloadpacket.__name__)
    return name[:-1] if name.endswith("_") and not name.startswith("__") else name


def fix(values: Sequence[Value], reason: str) -> None:
    """Keep all channels of the operands."""
    for value in values:
        for span in value.spans:
            span.fix(reason)


def unknown(call: Call) -> None:
    """Keep all channels that an operation without a rule touches."""
    reason = f"aten.{call.name} in {call.recording.where} is not an operation that lomt knows"
    fix(call.operands, reason)
    call.put_unknown(reason)


def arguments_by_name(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of an operation, defaults included, by the names of its schema."""
    arguments = {}
    for place, argument in enumerate(func._schema.arguments):
        if place < len(args):
            arguments[argument.name] = args[place]
        elif argument.name in kwargs:
            arguments[argument.name] = kwargs[argument.name]
        elif argument.has_default_value():
            arguments[argument.name] = argument.default_value
    return arguments
