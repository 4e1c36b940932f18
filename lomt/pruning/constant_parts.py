"""From a recorded run to proposals: which modules to exchange, group by group, and for what."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch import nn

from lomt.pruning.data_flow import Flow, ModuleCall
from lomt.pruning.plan import Replacement
from lomt.pruning.replacements import Constant, Skip, Spread
from lomt.pruning.result_shape import result_shape

__all__ = ["constant_groups", "unchanged_groups", "unused_groups"]

Groups = list[list[Replacement]]

_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


def unused_groups(model: nn.Module, flow: Flow, unused_layers: Iterable[str]) -> Groups:
    """Propose an identity for what is never called and on whose weights no output depends; outer modules first."""
    unused = set(unused_layers)
    found: list[str] = []
    names = Counter(module for _, module in model.named_modules(remove_duplicate=False))
    for path, module in model.named_modules():
        inside = {f"{path}.{name}".rstrip("."): own for name, own in module.named_modules()}
        if names[module] > 1 or not path or isinstance(module, _CONTAINERS) or _is_below(path, found):
            continue
        weighted = {
            own for own, part in inside.items() if next(part.parameters(recurse=False), None) is not None
        }
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


def constant_groups(model: nn.Module, flow: Flow, *, narrow: bool = True) -> Groups:
    """Propose constants for what ends dead parts, and skips for what only leads to them; a group a part.

    Args:
        model: The model.
        flow: Its recorded run.
        narrow: Whether to spare memory where what is left to run writes into the result of a skip: one channel
            will do unless it is combined with something that has more.
    """
    return _Proposal(model, flow, narrow).groups()


class _Proposal:
    def __init__(self, model: nn.Module, flow: Flow, narrow: bool) -> None:
        self._model, self._flow, self._narrow = model, flow, narrow
        self._shapes = {call.path: result_shape(model.get_submodule(call.path), call) for call in flow.calls}
        self._done = {path for path, module in model.named_modules() if not _works(module)}
        self._emitters = self._find_emitters()
        self._needed, self._ends = self._settle()

    def groups(self) -> Groups:
        chosen = _outer(self._free_emitter(end) for end in sorted(self._ends))
        constants = [self._constant(call) for call in chosen]
        paths = [call.path for call in chosen]
        ignored = _outer(self._ignored_parts())
        zeros = [self._zero(call) for call in ignored if not _touches(call.path, paths)]
        taken = [own.module for own in (*constants, *zeros)]
        skipped = _outer(call for call in self._skippable() if not _touches(call.path, taken))
        is_writable = self._is_written_to([*taken, *(call.path for call in skipped)])
        skips = [self._skip(call, is_writable) for call in skipped]
        return self._grouped([*constants, *zeros, *skips])

    def _find_emitters(self) -> dict[int, list[ModuleCall]]:
        """Modules that compute and return a dead constant, by the operation that makes it; outer ones first."""
        found: dict[int, list[ModuleCall]] = {}
        for call in self._flow.calls:
            operation = call.returned[0]
            if (
                operation is not None
                and call.values is not None
                and call.holds(operation)
                and self._shapes[call.path]
            ):
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

    def _ignored_parts(self) -> Iterator[ModuleCall]:
        """Modules whose result is multiplied by zeros, in what has to be computed."""
        ignored = {
            own for needed in self._needed for own in self._flow.operations[needed].ignores
        } - self._needed
        for call in self._skippable():
            operation = call.returned[0]
            if operation is not None and operation in ignored and call.holds(operation):
                yield call

    def _skippable(self) -> Iterator[ModuleCall]:
        for call in self._flow.calls:
            if self._is_free(call) and self._shapes[call.path] and call.path not in self._done:
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

    def _spread(self, call: ModuleCall, end: int) -> Spread:
        """Say what must be handed out: nobody may write into a view, and only sums and products broadcast."""
        operations = self._flow.operations
        readers = [
            own for number, own in enumerate(operations) if not call.holds(number) and _reads(own, end)
        ]
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

    def _constant(self, call: ModuleCall) -> Replacement:
        assert call.values is not None and call.returned[0] is not None
        spread = self._spread(call, call.returned[0])
        values = call.values.double().tolist()
        options = self._options(call) | {"spread": spread, "dtype": str(call.values.dtype).partition(".")[2]}
        return Replacement(call.path, "constant", options | {"values": values})

    def _zero(self, call: ModuleCall) -> Replacement:
        options = {"spread": "full", "dtype": "float32", "values": [0.0]}
        return Replacement(call.path, "constant", self._options(call) | options)

    def _skip(self, call: ModuleCall, is_writable: bool) -> Replacement:
        options = self._options(call) | {"is_writable": is_writable}
        return Replacement(
            call.path, "skip", options | {"channels": 1} if is_writable and self._narrow else options
        )

    def _options(self, call: ModuleCall) -> dict[str, Any]:
        shape = self._shapes[call.path]
        assert shape is not None
        layout, window = shape
        return {
            "channels": call.returned[1][1 if layout == "first" else -1],
            "layout": layout,
            "window": window,
        }

    def _grouped(self, replacements: Sequence[Replacement]) -> Groups:
        """Put together what hangs together by operations that need not run."""
        leader = list(range(len(self._flow.operations)))

        def find(own: int) -> int:
            while leader[own] != own:
                leader[own] = own = leader[leader[own]]
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


def _touches(path: str, others: Sequence[str]) -> bool:
    return _is_below(path, others) or any(other.startswith(f"{path}.") for other in others)


def _outer(calls: Iterable[ModuleCall]) -> list[ModuleCall]:
    """Leave out calls inside others, in the order of the run."""
    kept: list[ModuleCall] = []
    for call in sorted(calls, key=lambda own: (own.start, -own.stop, own.path.count("."))):
        if not _is_below(call.path, [own.path for own in kept]):
            kept.append(call)
    return kept


def _works(module: nn.Module) -> bool:
    """Whether something in a module is not yet a replacement."""
    leaves = [own for own in module.modules() if not list(own.children())]
    return not all(isinstance(own, Constant | Skip | nn.Identity) for own in leaves)
