"""Cut a backbone after its deepest branch point."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import cast

from jaxtyping import Float
from torch import Tensor, fx, nn

from lomt.errors import ArtifactError, UnknownNameError
from lomt.models.backbone import mismatch
from lomt.models.candidates import FeatureGraph, feature_graph
from lomt.models.graph import NotTraceableError, Trace, sources
from lomt.models.graph_module import GraphModule
from lomt.models.intermediates import Backbone, listed_features, truncate_by_intermediates
from lomt.models.measure import image_size, measure

__all__ = ["GraphBackbone", "last_layer", "load_shared", "truncate"]


def truncate(backbone: nn.Module, layer_names: Iterable[str]) -> Backbone:
    """Make the part of a timm model that computes the features of some layers, and nothing else.

    The features equal the whole model's bit for bit, in train and in eval mode. There are no hooks; the
    modules that no named layer needs are gone; the others keep their names in the state dict, so that the
    entries of the whole model load (:func:`load_shared`). Where torch.fx cannot follow the model, timm's
    ``forward_intermediates`` cuts it at coarser layers, and the reason is logged.

    Args:
        backbone: A whole model, from :func:`lomt.models.create_backbone`; nothing of it is shared with the
            result, and it is left as it was.
        layer_names: Names from :func:`lomt.models.list_layers`.

    Returns:
        A module from images to a dict of features by layer name, in the mode of ``backbone``.

    Raises:
        UnknownNameError: The model has no such layer.
        UnsupportedLayerError: The model cannot be cut at all.
    """
    names = list(dict.fromkeys(layer_names))
    if not names:
        raise ValueError("Expected `layer_names` to name at least one layer, but got none.")
    try:
        graph = feature_graph(backbone)
    except NotTraceableError as reason:
        return truncate_by_intermediates(backbone, names, str(reason))
    known = {layer.name: layer for layer in graph.candidates}
    for name in names:
        if name not in known:
            raise UnknownNameError("layer", name, known)
    channels = {name: known[name].channels for name in names}
    return GraphBackbone(graph, channels, {name: known[name].reduction for name in names})


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
    """

    def __init__(
        self, graph: FeatureGraph, channels: Mapping[str, int], reduction: Mapping[str, int]
    ) -> None:
        super().__init__(channels, reduction)
        overwritten = _overwritten(graph, self.layer_names)
        graphs = {
            True: _cut(graph.train_trace, self.layer_names, overwritten),
            False: _cut(graph.trace, self.layer_names, overwritten),
        }
        self.take_over(graph.backbone, graphs, {**graph.trace.constants, **graph.train_trace.constants})

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> dict[str, Tensor]:
        features: dict[str, Tensor] = self.run(images)
        return features


def _overwritten(graph: FeatureGraph, layer_names: Sequence[str]) -> frozenset[str]:
    """Name the layers whose features a later, in-place operation of the truncated backbone changes."""
    size = image_size(graph.backbone)
    found: set[str] = set()
    for trace, training, batch in ((graph.trace, False, 1), (graph.train_trace, True, 2)):
        cut = _cut(trace, layer_names)
        seen = measure(graph.twin, cut, size, training=training, batch=batch)
        features = cast(dict[str, fx.Node], cut.output_node().args[0])
        found |= {name for name, node in features.items() if node in seen.overwritten}
    return frozenset(found)


def _cut(trace: Trace, layer_names: Sequence[str], overwritten: Collection[str] = ()) -> fx.Graph:
    """Copy what the layers need; features that would be overwritten are copied first when it runs."""
    wanted = {name: trace.outputs[name] for name in layer_names}
    needed = set[fx.Node]().union(*(sources(node) for node in wanted.values()))
    cut, copies, features = fx.Graph(), dict[fx.Node, fx.Node](), dict[str, fx.Node]()
    for node in trace.graph.nodes:
        if node not in needed and node.op != "placeholder":
            continue
        copies[node] = cut.node_copy(node, lambda source: copies[source])
        for name in (name for name, source in wanted.items() if source is node):
            features[name] = (
                cut.call_method("clone", (copies[node],)) if name in overwritten else copies[node]
            )
    cut.output({name: features[name] for name in layer_names})
    return cut
