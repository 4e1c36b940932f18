"""The graph of a backbone: which layer's features are computed from which others.

Traced with ``torch.fx``, with the functions and modules that timm registers as not traceable kept whole, as
in timm's own FX feature extraction. Two differences make the result exact: a module's output is the value
that it returned (not the last operation recorded inside it), and every module that is or derives from a
``torch.nn`` layer, or has no children, stays one call. Fused normalisation-activation layers and stochastic
depth therefore keep their class and their own train or eval mode.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from timm.models import get_notrace_functions, get_notrace_modules
from torch import fx, nn

__all__ = ["NotTraceableError", "Trace", "is_torch_layer", "is_whole", "sources", "trace"]


class NotTraceableError(Exception):
    """A backbone without a usable graph; the text is the reason."""


@dataclass(frozen=True)
class Trace:
    """One mode's graph of a backbone.

    Args:
        graph: Operations in the order they run.
        outputs: The node whose value each module returned, by the module's dotted name.
        own_nodes: Functions that a module's ``forward`` calls itself, by the module's dotted name.
        constants: Tensors that ``forward`` makes from numbers alone, by the name the graph gives them.
    """

    graph: fx.Graph
    outputs: Mapping[str, fx.Node]
    own_nodes: Mapping[str, tuple[fx.Node, ...]]
    constants: Mapping[str, torch.Tensor]


def trace(backbone: nn.Module, training: bool) -> Trace:
    """Record the graph of the backbone in train or in eval mode.

    Args:
        backbone: Model with one image tensor as input and without data; its mode is set.
        training: Mode to record.

    Raises:
        NotTraceableError: The model's ``forward`` depends on values, or changes a tensor behind FX's back.
    """
    tracer = _Tracer()
    try:
        graph = tracer.trace(backbone.train(training))
    except Exception as error:  # FX runs the model's own code: anything may be raised
        text = str(error).splitlines()
        raise NotTraceableError(f"torch.fx: {type(error).__name__}: {text[0] if text else ''}") from error
    _check_no_hidden_writes(graph)
    own_nodes = {path: tuple(nodes) for path, nodes in tracer.own_nodes.items()}
    return Trace(graph, dict(tracer.outputs), own_nodes, _taken_constants(backbone, graph))


def is_whole(module: nn.Module) -> bool:
    """Say whether a module stays one call in the graph: a ``torch.nn`` layer or one without children."""
    if type(module) in get_notrace_modules() or not any(True for _ in module.children()):
        return True
    return is_torch_layer(module)


def is_torch_layer(module: nn.Module) -> bool:
    """Say whether a module is or derives from a layer of ``torch.nn`` (containers are none)."""
    places = (kind.__module__ for kind in type(module).__mro__)
    return any(place.startswith("torch.nn.modules.") and place not in _NOT_LAYERS for place in places)


def sources(node: fx.Node) -> set[fx.Node]:
    """Collect the nodes from which a node is computed, itself included."""
    found: set[fx.Node] = set()
    waiting = [node]
    while waiting:
        current = waiting.pop()
        if current not in found:
            found.add(current)
            waiting.extend(current.all_input_nodes)
    return found


def _taken_constants(backbone: nn.Module, graph: fx.Graph) -> dict[str, torch.Tensor]:
    """Take the data of the tensors that FX has left on the model; the model, without data, keeps shapes."""
    names = {str(node.target) for node in graph.nodes if node.op == "get_attr"} & set(vars(backbone))
    constants = {name: getattr(backbone, name) for name in names}
    for name, value in constants.items():
        setattr(backbone, name, value.to("meta"))
    return constants


class _Tracer(fx.Tracer):
    proxy_buffer_attributes = True

    def __init__(self) -> None:
        functions = [function for function in get_notrace_functions() if callable(function)]
        super().__init__(autowrap_functions=tuple(functions))
        self.outputs: dict[str, fx.Node] = {}
        self.own_nodes: dict[str, list[fx.Node]] = {}
        self._path = ""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return is_whole(m)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        outer, self._path = self._path, self.path_of_module(m)
        path = self._path
        try:
            result = super().call_module(m, forward, args, kwargs)
        finally:
            self._path = outer
        if isinstance(result, fx.Proxy):
            self.outputs[path] = result.node
        return result

    def create_node(self, kind: str, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(kind, *args, **kwargs)
        if kind in ("call_function", "call_method"):
            self.own_nodes.setdefault(self._path, []).append(node)
        return node


_NOT_LAYERS = ("torch.nn.modules.module", "torch.nn.modules.container")


def _check_no_hidden_writes(graph: fx.Graph) -> None:
    """Refuse statements such as ``x.add_(y)``: nothing in the graph says that later readers need them."""
    for node in graph.nodes:
        if node.op == "call_method" and node.target.endswith("_") and not node.users:
            raise NotTraceableError(f"its forward writes to a tensor in place by `{node.target}`")
