"""A task's own way through a backbone that others share: its own weights in some layers, and what follows them.

The graph of the shared backbone stays as it is. A node is computed a second time for the task only if it is one of the
task's own layers or depends on one; modules in between that are not its own are called twice and stored once.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from torch import fx, nn
from torch.nn.modules.conv import _ConvNd

from lomt.errors import UnknownNameError
from lomt.models.candidates import FeatureGraph
from lomt.models.graph import sources

__all__ = [
    "OWN_LAYERS",
    "AdaptableLayer",
    "Branched",
    "TaskPath",
    "adaptable_layers",
    "branch_off",
    "computed_layers",
    "give_own_modules",
    "own_name",
]

OWN_LAYERS = "task_layers"
"""Under which name a backbone keeps the tasks' own layers."""

_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


@dataclass(frozen=True)
class TaskPath:
    """Which layers of a backbone a task has for its own.

    Args:
        task: Its name.
        branch_point: Layer whose features the task's decoder reads.
        layers: Dotted names of the layers, norms included.
    """

    task: str
    branch_point: str
    layers: tuple[str, ...]

    @property
    def feature(self) -> str:
        """Name of the task's own version of the branch point's features."""
        return f"{self.task}/{self.branch_point}"


@dataclass(frozen=True)
class AdaptableLayer:
    """A layer that a task may have for its own.

    Args:
        name: Dotted name of a convolution or linear layer.
        norm: That of the norm which alone reads it and reads nothing else; None where there is none.
    """

    name: str
    norm: str | None


@dataclass(frozen=True)
class Branched:
    """A graph in which tasks have paths of their own.

    Args:
        graph: Its features by layer name, and by :attr:`TaskPath.feature`.
        shared: The nodes that are computed once, by the node they are copies of.
        own: By task the nodes that are computed for it alone, likewise.
    """

    graph: fx.Graph
    shared: Mapping[fx.Node, fx.Node]
    own: Mapping[str, Mapping[fx.Node, fx.Node]]


def own_name(task: str, layer: str) -> str:
    """Return the dotted name, within a backbone, of a task's own version of a layer."""
    return f"{OWN_LAYERS}.{task}.{layer}"


def adaptable_layers(
    graph: FeatureGraph, branch_point: str
) -> tuple[tuple[AdaptableLayer, ...], tuple[str, ...]]:
    """Find what a task that reads a layer could have for its own.

    Args:
        graph: Of a whole backbone.
        branch_point: One of its candidates.

    Returns:
        Convolutions and linear layers up to the branch point in forward order, and the names of other modules there
        that have weights and belong to none of them.
    """
    needed = sources(graph.trace.outputs[branch_point])
    calls: dict[str, list[fx.Node]] = {}
    for node in graph.trace.graph.nodes:
        if node in needed and node.op == "call_module":
            calls.setdefault(str(node.target), []).append(node)
    kinds = {name: graph.backbone.get_submodule(name) for name in calls}
    layers = [name for name, module in kinds.items() if _is_adaptable(module)]
    found = tuple(AdaptableLayer(name, _norm_of(calls[name], kinds, calls, needed)) for name in layers)
    norms = {layer.norm for layer in found}
    others = (name for name, module in kinds.items() if next(module.parameters(), None) is not None)
    return found, tuple(name for name in others if name not in layers and name not in norms)


def computed_layers(graph: FeatureGraph, layer_names: Collection[str]) -> tuple[str, ...]:
    """Name the candidates that a backbone cut at some layers computes, in forward order."""
    made = set[fx.Node]().union(*(sources(graph.trace.outputs[name]) for name in layer_names))
    return tuple(layer.name for layer in graph.candidates if layer.node in made)


def branch_off(
    cut: fx.Graph,
    paths: Sequence[TaskPath],
    overwritten: Collection[fx.Node] = (),
    ends: Collection[str] = (),
) -> Branched:
    """Give tasks their own paths in the graph of a truncated backbone.

    Own nodes come just before the nodes that they stand in for, so that they find all that these would find, also
    where operations change tensors in place.

    Args:
        cut: A graph whose output is a dict with every path's feature, as the shared backbone computes it.
        paths: The own layers by task.
        overwritten: Nodes of ``cut`` whose tensors some operation changes in place: a path reads a copy.
        ends: Names of features that some later operation changes in place: they are copied when they are made.

    Raises:
        UnknownNameError: A layer is not on its task's path.
    """
    wanted: Mapping[str, fx.Node] = cut.output_node().args[0]  # type: ignore[assignment]
    doubled = {path.task: _own_nodes(cut, path, wanted[path.feature]) for path in paths}
    shared_only = {name: node for name, node in wanted.items() if not _is_own(name, node, paths, doubled)}
    needed = _shared_nodes(cut, shared_only.values(), doubled)
    graph, shared, features = fx.Graph(), dict[fx.Node, fx.Node](), dict[str, fx.Node]()
    own: dict[str, dict[fx.Node, fx.Node]] = {path.task: {} for path in paths}
    copies: dict[str, dict[fx.Node, fx.Node]] = {path.task: {} for path in paths}

    def read(task: str, source: fx.Node) -> fx.Node:
        """Return what a path's node reads in place of a node of ``cut``."""
        if source in own[task]:
            return own[task][source]
        if source not in overwritten:
            return shared[source]
        if source not in copies[task]:
            copies[task][source] = graph.call_method("clone", (shared[source],))
        return copies[task][source]

    def put_out(name: str, node: fx.Node) -> None:
        """Take a node for a feature."""
        features[name] = graph.call_method("clone", (node,)) if name in ends else node

    for node in cut.nodes:
        if node.op == "output":
            continue
        for path in paths:
            if node in doubled[path.task]:
                task = path.task
                own[task][node] = graph.node_copy(node, partial(read, task))
                if wanted[path.feature] is node:
                    put_out(path.feature, own[task][node])
        if node in needed or node.op == "placeholder":
            shared[node] = graph.node_copy(node, lambda source: shared[source])
            for name in (name for name, feature in shared_only.items() if feature is node):
                put_out(name, shared[node])
    graph.output({name: features[name] for name in wanted})
    return Branched(graph, shared, own)


def give_own_modules(branched: Branched, paths: Sequence[TaskPath]) -> dict[str, str]:
    """Let the paths' own nodes call the tasks' own modules.

    Returns:
        By dotted name of every own module, parameter or buffer that the graph uses, that of the one it is a copy of.
    """
    origins = {}
    for path in paths:
        for node in branched.own[path.task].values():
            if _module_of(node) in path.layers:
                origins[own_name(path.task, str(node.target))] = str(node.target)
                node.target = own_name(path.task, str(node.target))
    return origins


def _is_adaptable(module: nn.Module) -> bool:
    """Whether all of a convolution's or linear layer's weights are its own parameters, by plain names."""
    own = [name for name, _ in module.named_parameters()]
    return isinstance(module, _ConvNd | nn.Linear) and bool(own) and not any("." in name for name in own)


def _norm_of(
    nodes: Sequence[fx.Node],
    kinds: Mapping[str, nn.Module],
    calls: Mapping[str, Sequence[fx.Node]],
    needed: Collection[fx.Node],
) -> str | None:
    """Name the norm that reads a layer's raw output; a layer or norm that is called twice has none."""
    if len(nodes) > 1:
        return None
    readers = [reader for reader in nodes[0].users if reader in needed]
    if len(readers) != 1 or readers[0].op != "call_module":
        return None
    name = str(readers[0].target)
    return name if isinstance(kinds[name], _NORMS) and len(calls[name]) == 1 else None


def _own_nodes(cut: fx.Graph, path: TaskPath, end: fx.Node) -> set[fx.Node]:
    needed, found = sources(end), set[fx.Node]()
    used = set()
    for node in cut.nodes:
        if node in needed and (_module_of(node) in path.layers or found.intersection(node.all_input_nodes)):
            found.add(node)
            used.add(_module_of(node))
    for layer in path.layers:
        if layer not in used:
            known = {name for node in needed if (name := _module_of(node)) is not None}
            raise UnknownNameError(f"layer before `{path.branch_point}`", layer, known)
    return found


def _module_of(node: fx.Node) -> str | None:
    """Name the module that a node calls, or of whose tensors it reads one."""
    if node.op == "call_module":
        return str(node.target)
    return str(node.target).rpartition(".")[0] if node.op == "get_attr" else None


def _is_own(
    name: str, node: fx.Node, paths: Sequence[TaskPath], doubled: Mapping[str, Collection[fx.Node]]
) -> bool:
    return any(path.feature == name and node in doubled[path.task] for path in paths)


def _shared_nodes(
    cut: fx.Graph, ends: Collection[fx.Node], doubled: Mapping[str, Collection[fx.Node]]
) -> set[fx.Node]:
    """Collect what shared features and the paths need that is no path's own."""
    read = {
        source
        for own in doubled.values()
        for node in own
        for source in node.all_input_nodes
        if source not in own
    }
    return set[fx.Node]().union(*(sources(node) for node in (*ends, *read)))
