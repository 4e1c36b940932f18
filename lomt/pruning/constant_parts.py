"""From a recorded run to proposals: which modules to exchange, group by group, and for what."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from lomt.pruning.data_flow import Flow, ModuleCall
from lomt.pruning.plan import Replacement
from lomt.pruning.replacements import Layout, Spread, output_size

__all__ = ["constant_groups", "unchanged_groups", "unused_groups"]

Groups = list[list[Replacement]]

_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


def unused_groups(model: nn.Module, flow: Flow, unused_layers: Iterable[str]) -> Groups:
    """Propose an identity for what is never called and on whose weights no output depends; outer modules first."""
    unused, found = set(unused_layers), []
    modules = dict(model.named_modules())
    for path, module in modules.items():
        inside = {f"{path}.{name}".rstrip("."): own for name, own in module.named_modules()}
        if not path or isinstance(module, _CONTAINERS) or _is_below(path, found):
            continue
        weighted = {own for own, part in inside.items() if next(part.parameters(recurse=False), None) is not None}
        if weighted and weighted <= unused and not flow.called & inside.keys():
            found.append(path)
    return [[Replacement(path, "identity")] for path in found]


def unchanged_groups(flow: Flow) -> Groups:
    """Propose an identity for modules that hand back what they are given because all they add is zero."""
    found: list[str] = []
    for call in flow.calls:
        returned = flow.same(call.returned[0])
        if (
            not _is_below(call.path, found)
            and call.given[1] == call.returned[1]
            and call.returned[0] != returned
            and returned is not None
            and returned == flow.same(call.given[0])
        ):
            found.append(call.path)
    return [[Replacement(path, "identity")] for path in found]


def constant_groups(model: nn.Module, flow: Flow) -> Groups:
    """Propose constants for what ends dead parts, and skips for what only leads to them; a group a part."""
    return _Proposal(model, flow).groups()


class _Proposal:
    def __init__(self, model: nn.Module, flow: Flow) -> None:
        self._model, self._flow = model, flow
        self._shapes = {call.path: _shape_of(model.get_submodule(call.path), call) for call in flow.calls}
        self._emitters = self._find_emitters()
        self._needed, self._ends = self._settle()

    def groups(self) -> Groups:
        chosen = {self._free_emitter(end).path: end for end in sorted(self._ends)}
        ignored = self._ignored_parts()
        constants = [
            self._constant(call, self._spread(chosen[call.path])) for call in self._flow.calls if call.path in chosen
        ]
        zeros = [
            self._zero(call) for call in ignored if not _is_below(call.path, chosen) and not _is_above(call.path, chosen)
        ]
        taken = [own.module for own in (*constants, *zeros)]
        skipped = [call for call in self._skipped(taken)]
        is_writable = self._is_written_to([*taken, *(call.path for call in skipped)])
        skips = [self._skip(call, is_writable) for call in skipped]
        return self._grouped([*constants, *zeros, *skips])

    def _find_emitters(self) -> dict[int, list[ModuleCall]]:
        """Modules that compute and return a dead constant, by the operation that makes it; outer ones first."""
        found: dict[int, list[ModuleCall]] = {}
        for call in self._flow.calls:
            operation = call.returned[0]
            if operation is not None and call.values is not None and call.holds(operation) and self._shapes[call.path]:
                found.setdefault(operation, []).append(call)
        return found

    def _settle(self) -> tuple[set[int], set[int]]:
        """Find what has to be computed, and the constants that it reads."""
        allowed = set(self._emitters)
        while True:
            needed, ends = self._reach(allowed)
            stuck = {end for end in ends if all(_holds_any(call, needed) for call in self._emitters[end])}
            if not stuck:
                return needed, ends
            allowed -= stuck

    def _reach(self, allowed: set[int]) -> tuple[set[int], set[int]]:
        needed: set[int] = set()
        ends: set[int] = set()
        waiting = list(self._flow.roots)
        while waiting:
            operation = waiting.pop()
            if operation in allowed:
                ends.add(operation)
            elif operation not in needed:
                needed.add(operation)
                waiting += [own for own, _ in self._flow.operations[operation].reads]
        return needed, ends

    def _free_emitter(self, end: int) -> ModuleCall:
        return next(call for call in self._emitters[end] if self._is_free(call))

    def _is_free(self, call: ModuleCall) -> bool:
        return not _holds_any(call, self._needed)

    def _ignored_parts(self) -> list[ModuleCall]:
        """Modules whose result is multiplied by zeros, in what has to be computed."""
        ignored = {own for needed in self._needed for own in self._flow.operations[needed].ignores} - self._needed
        found: list[ModuleCall] = []
        for call in self._flow.calls:
            operation = call.returned[0]
            is_one = operation in ignored and operation is not None and call.holds(operation)
            if is_one and self._is_free(call) and self._shapes[call.path]:
                if not _is_below(call.path, [own.path for own in found]):
                    found.append(call)
        return found

    def _skipped(self, taken: Sequence[str]) -> Iterator[ModuleCall]:
        outer: list[str] = []
        for call in self._flow.calls:
            if not self._is_free(call) or self._shapes[call.path] is None:
                continue
            if not _is_below(call.path, [*taken, *outer]) and not _is_above(call.path, taken):
                outer.append(call.path)
                yield call

    def _is_written_to(self, replaced: Sequence[str]) -> bool:
        """Whether what is left to run beside replaced modules writes into results that nobody needs."""
        gone = [call for call in self._flow.calls if call.path in set(replaced)]
        return any(
            own.overwrites is not None
            and number not in self._needed
            and not any(call.holds(number) for call in gone)
            for number, own in enumerate(self._flow.operations)
        )

    def _spread(self, end: int) -> Spread:
        """Say what must be handed out: nobody may write into a view, and only sums and products broadcast."""
        operations = self._flow.operations
        call = self._free_emitter(end)
        readers = [own for number, own in enumerate(operations) if not call.holds(number) and _reads(own, end)]
        if end in self._flow.outputs or any(own.overwrites == end for own in readers):
            return "full"
        shape = call.returned[1]
        is_simple = all(
            own.name in ("add", "sub", "mul")
            and own.shape == shape
            and len({other for other, size in own.reads if size == shape}) == 2
            and all(size == shape for _, size in own.reads)
            for own in readers
        )
        return "small" if is_simple and readers else "expanded"

    def _constant(self, call: ModuleCall, spread: Spread) -> Replacement:
        assert call.values is not None
        values = call.values.double().tolist()
        options = self._options(call) | {"spread": spread, "dtype": str(call.values.dtype).partition(".")[2]}
        return Replacement(call.path, "constant", options | {"values": values})

    def _zero(self, call: ModuleCall) -> Replacement:
        options = {"spread": "full", "dtype": "float32", "values": [0.0]}
        return Replacement(call.path, "constant", self._options(call) | options)

    def _skip(self, call: ModuleCall, is_writable: bool) -> Replacement:
        return Replacement(call.path, "skip", self._options(call) | {"is_writable": is_writable})

    def _options(self, call: ModuleCall) -> dict[str, Any]:
        shape = self._shapes[call.path]
        assert shape is not None
        layout, window = shape
        return {"channels": call.returned[1][1 if layout == "first" else -1], "layout": layout, "window": window}

    def _grouped(self, replacements: Sequence[Replacement]) -> Groups:
        """Put together what hangs together by operations that need not run."""
        leader = list(range(len(self._flow.operations)))

        def find(own: int) -> int:
            while leader[own] != own:
                own = leader[own]
            return own

        for number, operation in enumerate(self._flow.operations):
            for other in (*(own for own, _ in operation.reads), *operation.ignores):
                if number not in self._needed and other not in self._needed:
                    leader[find(number)] = find(other)
        calls = {call.path: call for call in self._flow.calls}
        for own in replacements:
            call = calls[own.module]
            for number in range(call.start, call.stop):
                leader[find(number)] = find(call.start)
        groups: dict[int, list[Replacement]] = {}
        for own in replacements:
            groups.setdefault(find(calls[own.module].start), []).append(own)
        return list(groups.values())


def _reads(operation: Any, end: int) -> bool:
    return operation.overwrites == end or any(own == end for own, _ in operation.reads)


def _holds_any(call: ModuleCall, operations: set[int]) -> bool:
    return any(number in operations for number in range(call.start, call.stop))


def _is_below(path: str, others: Iterable[str]) -> bool:
    return any(path == other or path.startswith(f"{other}.") for other in others)


def _is_above(path: str, others: Iterable[str]) -> bool:
    return any(other.startswith(f"{path}.") for other in others)


Shape = tuple[Layout, list[list[int]]]


def _shape_of(module: nn.Module, call: ModuleCall) -> Shape | None:
    """Say how the shape of a module's result follows from that of what it is given; ``None`` if that is unclear."""
    given, returned = call.given[1], call.returned[1]
    if len(given) != len(returned) or len(given) < 2:
        return None
    order: list[Layout] = ["first", "last"] if _is_channels_first(module, call) else ["last", "first"]
    for layout in order:
        if layout == "last" and given[:-1] == returned[:-1]:
            return layout, []
        if layout == "first" and len(given) > 2 and given[0] == returned[0]:
            window = _window(module, given[2:], returned[2:])
            if window is not None:
                return layout, window
    return None


def _is_channels_first(module: nn.Module, call: ModuleCall) -> bool:
    returned = call.returned[1]
    if call.channel_dim is not None:
        return call.channel_dim == 1 and len(returned) > 2
    if isinstance(module, nn.modules.conv._ConvNd | nn.modules.batchnorm._BatchNorm) or len(returned) == 2:
        return len(returned) > 2
    widths = {own.shape[0] for own in module.parameters() if own.ndim}
    fits_first, fits_last = returned[1] in widths, returned[-1] in widths
    return fits_first >= fits_last if len(returned) > 3 else fits_first > fits_last


def _window(module: nn.Module, before: Sequence[int], after: Sequence[int]) -> list[list[int]] | None:
    tries = [_own_window(module, len(before))]
    if list(before) == list(after):
        tries.append([])
    tries.append([[1, -(-size // new), 0, 1] for size, new in zip(before, after, strict=True) if new])
    for window in tries:
        if window is None:
            continue
        sizes = [output_size(size, own) for size, own in zip(before, window, strict=False)] if window else list(before)
        if sizes == list(after):
            is_same = all(stride == 1 and pad == step * (kernel - 1) for kernel, stride, pad, step in window)
            return [] if is_same else window
    return None


def _own_window(module: nn.Module, dims: int) -> list[list[int]] | None:
    """The window of a convolution or pooling, from what it says of itself."""
    if not hasattr(module, "kernel_size") or getattr(module, "transposed", False):
        return None
    given = [getattr(module, name, default) for name, default in _WINDOW.items()]
    listed = [list(own) if isinstance(own, list | tuple) else [own] * dims for own in given]
    if any(len(own) != dims or not all(isinstance(value, int) for value in own) for own in listed):
        return None
    kernel, stride, padding, dilation = listed
    return [[k, s, 2 * p, d] for k, s, p, d in zip(kernel, stride, padding, dilation, strict=True)]


_WINDOW: Mapping[str, Any] = {"kernel_size": 1, "stride": 1, "padding": 0, "dilation": 1}
