"""The layers of a backbone that can be branch points, and what the backbone up to each of them costs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from torch import fx, nn

from lomt.models.backbone import BackboneSpec, create_backbone
from lomt.models.candidates import Candidate, FeatureGraph, LayerKind, feature_graph
from lomt.models.graph import NotTraceableError, Trace, sources
from lomt.models.intermediates import list_intermediates
from lomt.models.measure import Measurement, measure

__all__ = ["Granularity", "Layer", "inspect_backbone", "list_layers"]

Granularity = Literal["block", "conv", "all"]
_Weights: TypeAlias = Mapping[fx.Node, list[nn.Parameter]]


@dataclass(frozen=True)
class Layer:
    """A candidate branch point.

    Args:
        name: Dotted name of the module, as in timm.
        kind: ``"block"``, ``"stage"`` (blocks in a row, or a stem) or ``"conv"`` (its raw output).
        channels: Channels of its features.
        reduction: Image height over feature height.
        params: Parameters of the backbone truncated after this layer.
        macs: Multiply-accumulates of the backbone truncated after this layer, for one image.
        is_bypassable: Whether features still reach the end of the backbone when all layers with weights in
            this one are taken out, as in a residual block with an identity shortcut. False for models that
            torch.fx cannot follow, where it is not known.
    """

    name: str
    kind: LayerKind
    channels: int
    reduction: int
    params: int
    macs: int
    is_bypassable: bool


def list_layers(
    backbone: nn.Module, size: tuple[int, int], granularity: Granularity = "block"
) -> list[Layer]:
    """List the layers of a timm model where decoders can read, in forward order.

    Costs are cumulative: they count exactly what the layer's features are computed from, so that a
    convolution in a shortcut may cost less than the one listed before it. Parameters equal those of the
    truncated backbone; multiply-accumulates are those of convolutions and matrix products.

    Args:
        backbone: A whole model, from :func:`lomt.models.create_backbone`; left as it was.
        size: Height and width of the images in pixels.
        granularity: ``"block"`` lists the finest blocks (where a model has none, its stages), ``"conv"`` the
            convolutions, ``"all"`` both and the stages. A model that torch.fx cannot follow has only the
            layers that timm's ``forward_intermediates`` gives.

    Raises:
        UnsupportedLayerError: The model cannot be cut, or not at the granularity asked for.
        ValueError: The model does not take images of this size.
    """
    try:
        graph = feature_graph(backbone)
    except NotTraceableError as reason:
        listed = list_intermediates(backbone, size, granularity, str(reason))
        return [Layer(**facts, is_bypassable=False) for facts in listed]
    try:
        seen = measure(graph.twin, graph.trace.graph, size, counts=True)
    except NotTraceableError as error:
        raise ValueError(
            f"Expected `size` to be one that the backbone takes, but got {size}: {error}"
        ) from error
    weights = _weights(graph)
    return [_with_costs(layer, graph, seen, weights) for layer in _chosen(graph.candidates, granularity)]


def inspect_backbone(
    name: str,
    *,
    size: tuple[int, int] = (224, 224),
    output_stride: int | None = None,
    options: Mapping[str, Any] | None = None,
    granularity: Granularity = "all",
) -> list[Layer]:
    """Build a backbone by name, with random weights, and list its layers.

    Args:
        name: Name of a timm model.
        size: Height and width of the images in pixels.
        output_stride: As in :class:`lomt.models.BackboneSpec`.
        options: As in :class:`lomt.models.BackboneSpec`.
        granularity: As in :func:`list_layers`.

    Raises:
        UnknownNameError: timm has no model of this name.
    """
    backbone = create_backbone(BackboneSpec(name, output_stride, options or {}))
    return list_layers(backbone, size, granularity)


def _chosen(candidates: tuple[Candidate, ...], granularity: Granularity) -> list[Candidate]:
    if granularity == "all":
        return list(candidates)
    chosen = [layer for layer in candidates if layer.kind == granularity]
    if granularity == "block" and not chosen:
        return [layer for layer in candidates if layer.kind == "stage"]
    return chosen


def _with_costs(layer: Candidate, graph: FeatureGraph, seen: Measurement, weights: _Weights) -> Layer:
    needed = sources(layer.node)
    in_either_mode = needed | sources(graph.train_trace.outputs[layer.name])
    parameters = {id(entry): entry for node in in_either_mode for entry in weights.get(node, ())}
    return Layer(
        name=layer.name,
        kind=layer.kind,
        channels=layer.channels,
        reduction=layer.reduction,
        params=sum(parameter.numel() for parameter in parameters.values()),
        macs=sum(seen.macs[node] for node in needed),
        is_bypassable=_is_bypassable(layer.name, graph.trace, seen, weights),
    )


def _weights(graph: FeatureGraph) -> _Weights:
    """Collect the parameters that each node of both modes' graphs uses."""
    found: dict[fx.Node, list[nn.Parameter]] = {}
    for node in (*graph.trace.graph.nodes, *graph.train_trace.graph.nodes):
        target = str(node.target)
        if node.op == "call_module":
            found[node] = list(graph.backbone.get_submodule(target).parameters())
        elif node.op == "get_attr":
            owner, _, name = target.rpartition(".")
            value = graph.backbone.get_submodule(owner)._parameters.get(name)
            found[node] = [] if value is None else [value]
    return found


def _is_bypassable(name: str, trace: Trace, seen: Measurement, weights: _Weights) -> bool:
    """Search a path of tensors from the image to the end that uses no weights in the layer."""
    reached: set[fx.Node] = set()
    for node in trace.graph.nodes:
        fed = node.op == "placeholder" or any(source in reached for source in node.all_input_nodes)
        if node.op == "output":
            return fed
        is_taken_out = bool(weights.get(node)) and f"{node.target}.".startswith(f"{name}.")
        if fed and not is_taken_out and node in seen.shapes:
            reached.add(node)
    return False
