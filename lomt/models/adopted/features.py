"""The layers of an adopted backbone where a decoder can read, and what the backbone up to each of them costs."""

import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg
from torch.utils.flop_counter import FlopCounterMode

from lomt.errors import UnsupportedLayerError
from lomt.models.adopted.known_trace import KnownTrace, run_on_anything
from lomt.models.adopted.opening import is_layer
from lomt.models.adopted.split import Split, inputs, weights_of
from lomt.models.candidates import LayerKind
from lomt.models.graph import sources
from lomt.models.layers import Layer
from lomt.models.measure import counting, is_map, reduction_of, without_data

__all__ = ["Feature", "find_features", "list_adopted_layers"]

_OTHER_BATCH = 3
"""Not the one that graphs are recorded with."""

FeatureForm = Literal["map", "tokens", "vector"]


@dataclass(frozen=True)
class Feature:
    """Features of a backbone at one place.

    Args:
        name: Dotted name of the module that returns them; where none does, of the module that computes them, and the
            name of the operation.
        kind: ``"block"`` or ``"stage"``, several blocks.
        node: Their node.
        form: ``"map"``, (batch, channels, height, width), ``"tokens"``, (batch, tokens, channels), or ``"vector"``,
            (batch, channels).
        shape: Their shape for the example, without the batch.
        reduction: Image height over feature height; of tokens the same, were they a map.
    """

    name: str
    kind: LayerKind
    node: fx.Node
    form: FeatureForm
    shape: tuple[int, ...]
    reduction: int

    @property
    def channels(self) -> int:
        """Number of channels."""
        return self.shape[0] if self.form == "map" else self.shape[-1]

    @property
    def is_pooled(self) -> bool:
        """Whether there is one vector an image: such features are read where they are read now, and nowhere else."""
        return self.form == "vector" or (self.form == "map" and self.shape[1:] == (1, 1))


def find_features(model: nn.Module, trace: KnownTrace, split: Split) -> tuple[Feature, ...]:
    """List where decoders can read, in forward order: what blocks and rows of blocks return, what decoders read now,
    and what all deeper features pass through on the way from one layer to the next.

    Args:
        model: The model.
        trace: Its graph in eval mode.
        split: From :func:`lomt.models.adopted.split.split_model`.
    """
    weights = weights_of(model, trace)
    used = frozenset(set().union(*(sources(node) for own in split.read.values() for node in own)))
    size = _image_size(trace)
    names: dict[str, tuple[LayerKind, fx.Node]] = {}
    for path, node in trace.returned.items():
        module = model.get_submodule(path)
        if node in used and not is_layer(module):
            kind: LayerKind = "block" if node.op == "call_module" and node.target == path else "stage"
            names[path] = (kind, node)
    known = {node for kind, node in names.values() if kind == "block"}
    by_node: dict[fx.Node, str] = {}
    for path, node in trace.returned.items():
        by_node.setdefault(node, path)  # the innermost module returned it first
    read = {node for own in split.read.values() for node in own}
    for node in trace.graph.nodes:
        if node not in used or node in known or node.op == "placeholder":
            continue
        if node in read or (_feeds_a_layer(node, model, weights) and _all_pass(node, trace, used)):
            names[by_node.get(node, f"{trace.places[node]}.{node.name}".lstrip("."))] = ("block", node)
    found = (_feature(name, kind, node, trace, size) for name, (kind, node) in names.items())
    features = [own for own in found if own is not None and (own.node in read or not own.is_pooled)]
    order = trace.order
    kinds = {"block": 0, "stage": 1}
    return tuple(sorted(features, key=lambda own: (order[own.node], kinds[own.kind])))


def list_adopted_layers(model: nn.Module, trace: KnownTrace, split: Split) -> list[Layer]:
    """List the features with their cumulative costs, and the convolutions and linear layers between them.

    The latter, of kind ``"conv"``, cannot be read from: they tell whether features can flow around them.
    """
    features = find_features(model, trace, split)
    order = trace.order
    deepest = max((own.node for own in features), key=order.__getitem__)
    weights, macs = weights_of(model, trace), _macs(model, trace)
    sizes = {id(own): own.numel() for own in model.parameters()}
    read = []
    for feature in features:
        needed = sources(feature.node)
        params = frozenset[int]().union(*(weights.get(node, frozenset()) for node in needed))
        cost = sum(sizes[own] for own in params), sum(macs.get(node, 0) for node in needed)
        is_bypassable = _is_bypassed(feature.node, deepest)
        layer = Layer(feature.name, feature.kind, feature.channels, feature.reduction, *cost, is_bypassable)
        read.append((feature.node, layer))
    between = [
        (node, layer)
        for node in sources(deepest)
        if node.op == "call_module"
        for layer in _layers_in(
            node, model, trace, _next_read(node, read, order), _is_bypassed(node, deepest)
        )
    ]
    kinds = {"conv": 0, "block": 1, "stage": 2}
    ordered = sorted([*read, *between], key=lambda own: (order[own[0]], kinds[own[1].kind]))
    return [layer for _, layer in ordered]


def _next_read(node: fx.Node, read: Sequence[tuple[fx.Node, Layer]], order: Mapping[fx.Node, int]) -> Layer:
    """Return the first layer at a node or behind it that can be read from: what is within costs as much."""
    return next((layer for later, layer in read if order[later] >= order[node]), read[-1][1])


def _layers_in(
    node: fx.Node, model: nn.Module, trace: KnownTrace, outer: Layer, is_bypassed: bool
) -> Iterator[Layer]:
    """Yield the convolutions and linear layers in a call."""
    for name, module, flows_around in _convolutions(model, node, trace):
        channels = int(getattr(module, "out_channels", 0) or getattr(module, "out_features", 0))
        cost = outer.reduction, outer.params, outer.macs
        yield Layer(name, "conv", channels, *cost, is_bypassed or flows_around)


def _feature(
    name: str, kind: LayerKind, node: fx.Node, trace: KnownTrace, size: tuple[int, int] | None
) -> Feature | None:
    value = trace.values.get(node)
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return None
    shape = tuple(value.shape)
    if len(shape) == 4:
        reduction = reduction_of(size, shape) if size and is_map(shape) else 1
        return Feature(name, kind, node, "map", shape[1:], reduction)
    if len(shape) == 2:
        return Feature(name, kind, node, "vector", shape[1:], 1)
    if len(shape) == 3 and shape[1] > 1:
        reduction = round(math.sqrt(size[0] * size[1] / shape[1])) if size else 1
        return Feature(name, kind, node, "tokens", shape[1:], max(reduction, 1))
    return None


def _image_size(trace: KnownTrace) -> tuple[int, int] | None:
    for node in inputs(trace):
        shape = trace.values[node].shape
        if len(shape) == 4:
            return int(shape[2]), int(shape[3])
    return None


def _feeds_a_layer(node: fx.Node, model: nn.Module, weights: Mapping[fx.Node, frozenset[int]]) -> bool:
    layers = [user for user in node.users if user.op == "call_module" and weights.get(user)]
    return any(own.ndim > 1 for user in layers for own in model.get_submodule(str(user.target)).parameters())


def _all_pass(node: fx.Node, trace: KnownTrace, used: frozenset[fx.Node]) -> bool:
    """Say whether every later feature is computed from a node and from nothing before it."""
    if not isinstance(trace.values.get(node), Tensor):
        return False
    reached, is_later = set[fx.Node](), False
    for other in trace.graph.nodes:
        if other is node:
            is_later = True
            continue
        if other not in used or not isinstance(trace.values.get(other), Tensor):
            continue
        if other.op == "placeholder" or any(source in reached for source in _tensor_sources(other, trace)):
            if is_later:
                return False
            reached.add(other)
    return is_later and any(user in used for user in node.users)


def _tensor_sources(node: fx.Node, trace: KnownTrace) -> list[fx.Node]:
    """Return the tensors a node computes with; those of which it takes only a size do not count."""
    found, waiting = [], list(node.all_input_nodes)
    while waiting:
        source = waiting.pop()
        value = trace.values.get(source)
        if isinstance(value, Tensor):
            found.append(source)
        elif isinstance(value, list | tuple | Mapping) and not isinstance(value, torch.Size):
            waiting.extend(source.all_input_nodes)
    return found


def _is_bypassed(node: fx.Node, deepest: fx.Node) -> bool:
    """Say whether the deepest features are still computed from an input when a node's are not there."""
    waiting, seen = [deepest], {node}  # nothing is left of the deepest when it goes itself
    while waiting:
        current = waiting.pop()
        if current in seen:
            continue
        seen.add(current)
        if current.op == "placeholder":
            return True
        waiting.extend(current.all_input_nodes)
    return False


def _convolutions(
    model: nn.Module, node: fx.Node, trace: KnownTrace
) -> Iterator[tuple[str, nn.Module, bool]]:
    """Yield the convolutions and linear layers in a call, and whether features flow around each within it."""
    path = str(node.target)
    block = model.get_submodule(path)
    if isinstance(block, _PROJECTIONS):
        yield path, block, False
        return
    names = [name for name, part in block.named_modules() if isinstance(part, _PROJECTIONS)]
    if not names:
        return
    args, kwargs = map_arg((node.args, node.kwargs), trace.values.__getitem__)
    twin = copy.deepcopy(block).requires_grad_(False).eval()
    for name in names:
        found = _cut_off(twin, name, args, kwargs)
        if found is not None and not found.is_gate:
            yield f"{path}.{name}", twin.get_submodule(name), found.flows_around


@dataclass(frozen=True)
class _CutOff:
    """What happens when a layer of a block is cut off; a gate sees one pixel, as in squeeze-and-excitation."""

    is_gate: bool
    flows_around: bool


def _cut_off(block: nn.Module, name: str, args: Any, kwargs: Any) -> _CutOff | None:
    """Run a block on zeros and see whether its result depends on the input with one layer's output cut off.

    ``None`` where the block does not run on zeros, or not this layer.
    """
    shapes: list[torch.Size] = []

    def cut(module: nn.Module, given: Any, result: Tensor) -> Tensor:
        """Note the layer's output and cut it off."""
        shapes.append(result.shape)
        return result.detach()

    hook = block.get_submodule(name).register_forward_hook(cut)
    try:
        result = block(*(_real(own) for own in args), **{key: _real(own) for key, own in kwargs.items()})
    except Exception:  # the model's own code runs: anything may be raised
        return None
    finally:
        hook.remove()
    if not shapes or not isinstance(result, Tensor):
        return None
    is_gate = result.ndim == 4 and (len(shapes[0]) != 4 or math.prod(shapes[0][2:]) == 1)
    return _CutOff(is_gate, result.requires_grad)


def _real(value: Any) -> Any:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    return torch.zeros(value.shape, dtype=value.dtype).requires_grad_()


_PROJECTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def _macs(model: nn.Module, trace: KnownTrace) -> dict[fx.Node, int]:
    """Return the multiply-accumulates of every node for one image.

    Raises:
        UnsupportedLayerError: The graph takes the example's number of images only.
    """
    flops = FlopCounterMode(display=False)
    twin = without_data(model).eval()
    for name, value in trace.constants.items():
        setattr(twin, name, value.to("meta"))
    run = _Count(model, twin, trace, flops)
    run.extra_traceback = False
    examples = [
        torch.empty(_OTHER_BATCH, *trace.values[node].shape[1:], device="meta") for node in inputs(trace)
    ]
    try:
        with counting(flops):
            run.run(*_all_inputs(trace, examples))
    except Exception as error:  # the model's own code runs: anything may be raised
        raise UnsupportedLayerError(
            f"Expected {type(model).__name__} to take any number of images, but its forward keeps that of the example: "
            f"{type(error).__name__}: {error}"
        ) from error
    return {node: count // _OTHER_BATCH for node, count in run.macs.items()}


def _all_inputs(trace: KnownTrace, examples: Sequence[Tensor]) -> Iterable[Any]:
    given = iter(examples)
    for node in trace.graph.nodes:
        if node.op == "placeholder":
            yield next(given) if isinstance(trace.values[node], Tensor) else trace.values[node]


class _Count(fx.Interpreter):
    """Notes the multiply-accumulates of every node."""

    def __init__(self, model: nn.Module, twin: nn.Module, trace: KnownTrace, flops: FlopCounterMode) -> None:
        super().__init__(twin, graph=trace.graph)
        self.model, self.closed, self.flops = model, trace.closed, flops
        self.macs: dict[fx.Node, int] = {}

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if target in self.closed:
            return run_on_anything(self.model, target, args, kwargs, training=False)
        return super().call_module(target, args, kwargs)

    def run_node(self, n: fx.Node) -> Any:
        before = self.flops.get_total_flops()
        value = super().run_node(n)
        self.macs[n] = (self.flops.get_total_flops() - before) // 2
        return value
