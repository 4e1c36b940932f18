"""Cut a backbone after its deepest branch point."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import cast

from jaxtyping import Float
from torch import Tensor, fx, nn

from lomt.errors import ArtifactError, UnknownNameError, UnsupportedLayerError
from lomt.models.backbone import mismatch
from lomt.models.candidates import FeatureGraph, feature_graph
from lomt.models.graph import NotTraceableError, Trace, sources
from lomt.models.graph_module import GraphModule
from lomt.models.intermediates import Backbone, listed_features, truncate_by_intermediates
from lomt.models.measure import image_size, measure
from lomt.models.task_paths import Branched, TaskPath, branch_off, give_own_modules

__all__ = ["GraphBackbone", "last_layer", "load_shared", "truncate"]


def truncate(backbone: nn.Module, layer_names: Iterable[str], paths: Sequence[TaskPath] = ()) -> Backbone:
    """Make the part of a timm model that computes the features of some layers, and nothing else.

    The features equal the whole model's bit for bit, in train and in eval mode. There are no hooks; the
    modules that no named layer needs are gone; the others keep their names in the state dict, so that the
    entries of the whole model load (:func:`load_shared`). Where torch.fx cannot follow the model, timm's
    ``forward_intermediates`` cuts it at coarser layers, and the reason is logged.

    Args:
        backbone: A whole model, from :func:`lomt.models.create_backbone`; nothing of it is shared with the
            result, and it is left as it was.
        layer_names: Names from :func:`lomt.models.list_layers`.
        paths: Layers of which tasks have versions of their own; these begin with the layers' weights.

    Returns:
        A module from images to a dict of features by layer name, and by :attr:`TaskPath.feature`, in the mode of
        ``backbone``.

    Raises:
        UnknownNameError: The model has no such layer, or it does not come before its task's branch point.
        UnsupportedLayerError: The model cannot be cut at all, or not finely enough for ``paths``.
    """
    names = list(dict.fromkeys(layer_names))
    if not names and not paths:
        raise ValueError("Expected `layer_names` to name at least one layer, but got none.")
    try:
        graph = feature_graph(backbone)
    except NotTraceableError as reason:
        if paths:
            raise UnsupportedLayerError(
                f"Expected a backbone that torch.fx can cut, because tasks have layers of their own, but got "
                f"{type(backbone).__name__}: {reason}. Choose another backbone."
            ) from reason
        return truncate_by_intermediates(backbone, names, str(reason))
    known = {layer.name: layer for layer in graph.candidates}
    for name in (*names, *(path.branch_point for path in paths)):
        if name not in known:
            raise UnknownNameError("layer", name, known)
    features = {**{name: name for name in names}, **{path.feature: path.branch_point for path in paths}}
    channels = {name: known[layer].channels for name, layer in features.items()}
    return GraphBackbone(
        graph, channels, {name: known[layer].reduction for name, layer in features.items()}, paths
    )


def last_layer(backbone: nn.Module) -> str:
    """Name the deepest block of a timm model, or its deepest stage where it has no blocks."""
    try:
        candidates = feature_graph(backbone).candidates
    except NotTraceableError as reason:
        return list(listed_features(backbone, str(reason)))[-1]
    blocks = [layer.name for layer in candidates if layer.kind == "block"]
    stages = [layer.name for layer in candidates if layer.kind == "stage"]
    return (blocks or stages or [candidates[-1].name])[-1]


def load_shared(module: nn.Module, entries: Mapping[str, Tensor]) -> None:
    """Load weights of a larger model into a part of it; entries that the part does not have are left out.

    Args:
        module: Part whose state-dict keys all occur in ``entries``, such as a truncated backbone.
        entries: State dict of the larger model.

    Raises:
        ArtifactError: An entry of ``module`` is missing or has another shape.
    """
    own = module.state_dict()
    shared = {key: value for key, value in entries.items() if key in own}
    if problem := mismatch(shared, own):
        raise ArtifactError(f"Expected the weights to cover the truncated backbone, but got {problem}.")
    module.load_state_dict(shared)


class GraphBackbone(Backbone, GraphModule):
    """A backbone cut by torch.fx: the needed modules under their own names, run by generated code.

    Args:
        graph: The whole model and its graph.
        channels: Channels of the features of each layer wanted.
        reduction: Image height over feature height of each.
        paths: Of tasks with layers of their own, whose features are among those wanted.
    """

    def __init__(
        self,
        graph: FeatureGraph,
        channels: Mapping[str, int],
        reduction: Mapping[str, int],
        paths: Sequence[TaskPath] = (),
    ) -> None:
        super().__init__(channels, reduction)
        layers = {name: name for name in self.layer_names} | {
            path.feature: path.branch_point for path in paths
        }
        ends, changed = _overwritten(graph, layers, paths)
        graphs, origins = dict[bool, fx.Graph](), dict[str, str]()
        for training, trace in _traces(graph).items():
            cut = _cut(trace, layers)
            branched = branch_off(cut, paths, _named(cut, changed[training]), ends)
            origins |= give_own_modules(branched, paths)
            graphs[training] = branched.graph
        constants = {**graph.trace.constants, **graph.train_trace.constants}
        self.take_over(graph.backbone, graphs, constants, origins=origins)

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> dict[str, Tensor]:
        features: dict[str, Tensor] = self.run(images)
        return features


def _traces(graph: FeatureGraph) -> dict[bool, Trace]:
    return {True: graph.train_trace, False: graph.trace}


def _overwritten(
    graph: FeatureGraph, layers: Mapping[str, str], paths: Sequence[TaskPath]
) -> tuple[frozenset[str], dict[bool, frozenset[str]]]:
    """Find what a later, in-place operation of the truncated backbone changes.

    Returns:
        The names of such features, and by mode those of the nodes of the truncated graph that several tasks compute
        with.
    """
    size = image_size(graph.backbone)
    ends, changed = set[str](), dict[bool, frozenset[str]]()
    for training, trace in _traces(graph).items():
        branched = branch_off(_cut(trace, layers), paths)
        seen = measure(graph.twin, branched.graph, size, training=training, batch=2 if training else 1)
        features = cast(dict[str, fx.Node], branched.graph.output_node().args[0])
        ends |= {name for name, node in features.items() if node in seen.overwritten}
        changed[training] = _shared_overwritten(branched, seen.overwritten)
    return frozenset(ends), changed


def _shared_overwritten(branched: Branched, overwritten: Collection[fx.Node]) -> frozenset[str]:
    return frozenset(node.name for node, copied in branched.shared.items() if copied in overwritten)


def _named(graph: fx.Graph, names: Collection[str]) -> frozenset[fx.Node]:
    return frozenset(node for node in graph.nodes if node.name in names)


def _cut(trace: Trace, layers: Mapping[str, str]) -> fx.Graph:
    """Copy what the features need, given by name the layer of each."""
    wanted = {name: trace.outputs[layer] for name, layer in layers.items()}
    needed = set[fx.Node]().union(*(sources(node) for node in wanted.values()))
    cut, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in trace.graph.nodes:
        if node in needed or node.op == "placeholder":
            copies[node] = cut.node_copy(node, lambda source: copies[source])
    cut.output({name: copies[node] for name, node in wanted.items()})
    return cut
