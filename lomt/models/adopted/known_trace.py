"""The graph of a model that somebody else wrote, opened as far as a network can be cut.

``torch.fx`` records what the model's own ``forward`` does. Beside every recorded value its real one is kept, computed
on tensors with shapes and without data: code that looks at sizes (``if height % 32``, ``for feature in features``)
is followed for the sizes of the example. A module that cannot be followed stays one call, with the reason.
"""

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from timm.models import get_notrace_functions
from torch import Tensor, fx, nn
from torch.fx.node import map_arg
from torch.utils._pytree import tree_leaves, tree_map_only

from lomt.models.adopted.answers import AdoptionError
from lomt.models.adopted.opening import is_opened
from lomt.models.graph import NotTraceableError, is_torch_layer
from lomt.models.measure import without_data

__all__ = ["KnownTrace", "run_on_anything", "trace_known"]

_MOST_TRIES = 60


@dataclass(frozen=True)
class KnownTrace:
    """One mode's graph of a model.

    Args:
        graph: Operations in the order they run.
        values: What every node computes for the example; tensors have shapes but no data.
        returned: The node that each module returned, by dotted name; modules called more than once are absent.
        places: The module in whose ``forward`` each node was recorded, by dotted name.
        closed: Why modules that hold several layers stay one call, by dotted name.
        overwritten: Nodes whose tensor is changed in place by a later one.
        constants: Tensors that ``forward`` makes from numbers alone, by the name the graph gives them.
    """

    graph: fx.Graph
    values: Mapping[fx.Node, Any]
    returned: Mapping[str, fx.Node]
    places: Mapping[fx.Node, str]
    closed: Mapping[str, str]
    overwritten: frozenset[fx.Node]
    constants: Mapping[str, Tensor]

    @cached_property
    def order(self) -> dict[fx.Node, int]:
        """The position of every node in the order they run."""
        return {node: index for index, node in enumerate(self.graph.nodes)}


def trace_known(model: nn.Module, examples: Sequence[Tensor], *, training: bool) -> KnownTrace:
    """Record the graph of a model in train or in eval mode.

    Args:
        model: Left as it is; a copy without data is run.
        examples: Its positional inputs; only shapes and types matter.
        training: Mode to record.

    Raises:
        NotTraceableError: The model's own ``forward`` cannot be followed; the text is the reason.
        AdoptionError: It takes another number of inputs.
    """
    closed: dict[str, str] = {}
    opened: set[str] = set()
    given = dict(zip(_inputs_of(model, len(examples)), examples, strict=True))
    for _ in range(_MOST_TRIES):  # as many modules may have to be opened or closed, one a try
        twin = without_data(model).train(training)
        tracer = _Tracer(model, twin, given, closed, opened)
        try:
            graph = tracer.record()
        except _OpenFirst as found:
            opened.add(found.path)
            continue
        except Exception as error:  # the model's own code runs: anything may be raised
            place, reason = tracer.place_of_failure, _one_line(error)
            if not place or place in closed:
                raise NotTraceableError(f"`{place}`: {reason}" if place else reason) from error
            closed[place] = reason
            opened.discard(place)
            continue
        return tracer.result(graph, closed)
    raise NotTraceableError(f"more than {_MOST_TRIES} of its modules cannot be followed")


class _OpenFirst(Exception):
    """A module that returns more than a tensor, and so has to be opened."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path


class _Tracer(fx.Tracer):
    """Records a graph and computes every value beside it."""

    def __init__(
        self,
        model: nn.Module,
        twin: nn.Module,
        examples: Mapping[str, Tensor],
        closed: Mapping[str, str],
        opened: set[str],
    ) -> None:
        functions = [function for function in get_notrace_functions() if callable(function)]
        super().__init__(autowrap_functions=tuple(functions))
        self._model, self._twin, self._closed, self._opened = model, twin, closed, opened
        with torch.device("meta"):
            self._waiting = {name: torch.empty(own.shape, dtype=own.dtype) for name, own in examples.items()}
        self.values: dict[fx.Node, Any] = {}
        self._versions: dict[fx.Node, int] = {}
        self._returned: dict[str, list[fx.Node]] = {}
        self._places: dict[fx.Node, str] = {}
        self._path: list[str] = []
        self._failed_at: str | None = None
        self._is_computing = False

    def record(self) -> fx.Graph:
        """Run the model's code on proxies."""
        parameters = inspect.signature(self._twin.forward).parameters
        self._defaults = {
            name: entry.default
            for name, entry in parameters.items()
            if name not in self._waiting and entry.default is not inspect.Parameter.empty
        }
        return self.trace(self._twin, concrete_args=self._defaults or None)

    def result(self, graph: fx.Graph, closed: Mapping[str, str]) -> KnownTrace:
        """Put together what was recorded."""
        changed = frozenset(
            node
            for node, version in self._versions.items()
            if isinstance(self.values[node], Tensor) and self.values[node]._version != version
        )
        names = {str(node.target) for node in graph.nodes if node.op == "get_attr"} & set(vars(self._twin))
        return KnownTrace(
            graph,
            self.values,
            {path: nodes[0] for path, nodes in self._returned.items() if len(nodes) == 1},
            self._places,
            dict(closed),
            changed,
            {name: getattr(self._twin, name) for name in names},
        )

    @property
    def place_of_failure(self) -> str:
        """The innermost module that was running when something was raised; empty for the model itself."""
        return self._failed_at or ""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if module_qualified_name in self._closed:
            return True
        return module_qualified_name not in self._opened and not is_opened(m)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if self._is_computing:
            return forward(*args, **kwargs)
        path = self.path_of_module(m)
        if path not in self._closed and not is_torch_layer(m) and _has_several((args, kwargs)):
            self._opened.add(path)  # it may read some of them only
        self._path.append(path)
        try:
            result = super().call_module(m, forward, args, kwargs)
        except _OpenFirst:
            raise
        except Exception:
            if self._failed_at is None:
                self._failed_at = path
            raise
        finally:
            self._path.pop()
        if isinstance(result, fx.Proxy):
            self._returned.setdefault(path, []).append(result.node)
            if self._is_too_much(path, m, self.values.get(result.node)):
                raise _OpenFirst(path)
        return result

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        if self._is_computing:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def create_proxy(
        self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **more: Any
    ) -> fx.Proxy:
        proxy = super().create_proxy(kind, target, args, kwargs, *rest, **more)
        self._note(proxy.node)
        return proxy

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _SizedProxy(node, self)

    def to_bool(self, obj: fx.Proxy) -> bool:
        value = self.values.get(obj.node)
        return super().to_bool(obj) if isinstance(value, Tensor) or value is None else bool(value)

    def iter(self, obj: fx.Proxy) -> Any:
        value = self.values.get(obj.node)
        if isinstance(value, list | tuple) or (isinstance(value, Tensor) and value.ndim):
            return iter([obj[index] for index in range(len(value))])  # type: ignore[index]
        return super().iter(obj)

    def keys(self, obj: fx.Proxy) -> Any:
        value = self.values.get(obj.node)
        return list(value) if isinstance(value, Mapping) else super().keys(obj)

    def _is_too_much(self, path: str, module: nn.Module, value: Any) -> bool:
        is_plain = isinstance(value, Tensor) or path in self._closed or path in self._opened
        return not is_plain and not is_torch_layer(module)

    def _note(self, node: fx.Node) -> None:
        self._places[node] = self._path[-1] if self._path else ""
        self._is_computing = True
        try:
            with torch.no_grad(), torch.device("meta"):
                value = self._value(node)
        finally:
            self._is_computing = False
        self.values[node] = value
        if isinstance(value, Tensor):
            self._versions[node] = value._version

    def _value(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            name = str(node.target)  # torch.fx counts arguments that keep their default
            return self._waiting.get(name, self._defaults.get(name.rpartition("_")[0]))
        if node.op == "get_attr":
            owner, _, name = str(node.target).rpartition(".")
            value = getattr(self._twin.get_submodule(owner), name)
            return value.to("meta") if isinstance(value, Tensor) else value
        args, kwargs = _plain(map_arg((node.args, node.kwargs), self.values.__getitem__))
        if node.op == "call_function":
            assert callable(node.target)
            return node.target(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        if node.op == "call_module" and node.target in self._closed:
            return run_on_anything(self._model, str(node.target), args, kwargs, training=self._twin.training)
        if node.op == "call_module":
            return self._twin.get_submodule(str(node.target)).forward(*args, **kwargs)
        return None


class _SizedProxy(fx.Proxy):
    """A value whose length and number are known where those of the example are."""

    def __len__(self) -> int:
        return len(self._known())

    def __index__(self) -> int:
        return self._number().__index__()  # type: ignore[no-any-return]

    def __int__(self) -> int:
        return int(self._number())

    def __float__(self) -> float:
        return float(self._number())

    def _number(self) -> Any:
        value = self._known()
        if isinstance(value, Tensor):
            raise TypeError("a number is read from a tensor, which depends on the images")
        return value

    def _known(self) -> Any:
        return self.tracer.values[self.node]  # type: ignore[attr-defined]


def run_on_anything(model: nn.Module, path: str, args: Any, kwargs: Any, *, training: bool) -> Any:
    """Run a copy of a module that looks at values, on zeros; tensors in its result have shapes but no data.

    Args:
        model: Holds the module.
        path: The module's dotted name.
        args: Its arguments; tensors have shapes but no data.
        kwargs: Those by name.
        training: Its mode.
    """
    module = copy.deepcopy(model.get_submodule(path)).train(training)
    with torch.device("cpu"), torch.no_grad():
        given = tree_map_only(Tensor, lambda own: torch.zeros(own.shape, dtype=own.dtype), (args, kwargs))
        return tree_map_only(Tensor, lambda own: own.to("meta"), module.forward(*given[0], **given[1]))


def _has_several(arguments: tuple[tuple[Any, ...], dict[str, Any]]) -> bool:
    """Say whether an argument is a list or a dictionary of values."""
    args, kwargs = arguments
    return any(
        isinstance(own, list | tuple | Mapping)
        and any(isinstance(entry, fx.Proxy) for entry in tree_leaves(own))
        for own in [*args, *kwargs.values()]
    )


def _plain(value: Any) -> Any:
    """Return lists that may be changed in place of those of a graph, which may not."""
    if isinstance(value, fx.immutable_collections.immutable_list):
        return [_plain(entry) for entry in value]
    if isinstance(value, fx.immutable_collections.immutable_dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return tuple(_plain(entry) for entry in value) if type(value) is tuple else value


def _inputs_of(model: nn.Module, count: int) -> list[str]:
    """Name the first positional arguments of a model's ``forward``."""
    parameters = inspect.signature(model.forward).parameters.values()
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = [p.name for p in parameters if p.default is p.empty and p.name in names]
    if len(names) < count or len(needed) > count:
        taken = needed if len(needed) > count else names
        described = "1 input" if count == 1 else f"{count} inputs"
        raise AdoptionError(
            f"Expected {type(model).__name__} to take {described}, because so many were described, "
            f"but its forward takes {len(taken)} ({', '.join(taken)}). Give as many `--input`; in a recipe "
            "name what comes after the image under `model.inputs`."
        )
    return names[:count]


def _one_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"
