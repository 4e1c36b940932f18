"""The layers of a backbone where a task's decoder can read features."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from timm.models import get_notrace_modules
from torch import fx, nn

from lomt.models.graph import NotTraceableError, Trace, is_torch_layer, sources, trace
from lomt.models.measure import Measurement, image_size, is_map, measure, reduction_of, without_data

__all__ = ["Candidate", "FeatureGraph", "LayerKind", "feature_graph", "timm_features"]

LayerKind = Literal["stage", "block", "conv"]


@dataclass(frozen=True)
class Candidate:
    """A layer whose output is a feature map.

    Args:
        name: Dotted name of the module.
        kind: ``"block"``, a finest part of the backbone that is built as a unit, as a rule a residual block;
            ``"stage"``, blocks in a row, or a feature that timm lists and that lies outside all blocks;
            ``"conv"``, one convolution and its raw output.
        node: The node of the features in the eval graph.
        channels: Their channels.
        reduction: Image height over their height.
    """

    name: str
    kind: LayerKind
    node: fx.Node
    channels: int
    reduction: int


@dataclass(frozen=True)
class FeatureGraph:
    """A backbone, its copy without data, its graph in both modes and its candidates in forward order."""

    backbone: nn.Module
    twin: nn.Module
    trace: Trace
    train_trace: Trace
    candidates: tuple[Candidate, ...]


def feature_graph(backbone: nn.Module) -> FeatureGraph:
    """Trace a backbone and find its candidate layers.

    A block is searched for from the top: containers (``nn.Sequential``, and modules that only pass features
    from part to part) are opened until a module with layers or arithmetic of its own is found. Blocks behind
    the deepest feature that timm lists belong to the classifier. Convolutions that see one pixel, as in
    squeeze-and-excitation, are gates and no candidates.

    Raises:
        NotTraceableError: There is no graph, or its features are not (batch, channels, height, width).
    """
    twin = without_data(backbone)
    traced = trace(twin, training=False)
    seen = measure(twin, traced.graph, image_size(backbone))
    _check_layout(backbone, traced, seen)
    names: dict[str, LayerKind] = {}
    for name, kind in _named_kinds(backbone, traced, seen):
        if name in traced.outputs and is_map(seen.shapes.get(traced.outputs[name])):
            names.setdefault(name, kind)
    if not names:
        raise NotTraceableError("no layer puts out features of the form (batch, channels, height, width)")
    candidates = [_candidate(name, kind, traced, seen) for name, kind in names.items()]
    train_trace = trace(twin, training=True)
    return FeatureGraph(backbone, twin, traced, train_trace, _in_forward_order(traced, candidates))


def _candidate(name: str, kind: LayerKind, traced: Trace, seen: Measurement) -> Candidate:
    node = traced.outputs[name]
    shape = seen.shapes[node]
    return Candidate(name, kind, node, shape[1], reduction_of(seen.size, shape))


def _in_forward_order(traced: Trace, candidates: list[Candidate]) -> tuple[Candidate, ...]:
    position = {node: index for index, node in enumerate(traced.graph.nodes)}
    order = {"conv": 0, "block": 1, "stage": 2}
    return tuple(sorted(candidates, key=lambda layer: (position[layer.node], order[layer.kind])))


def _check_layout(backbone: nn.Module, traced: Trace, seen: Measurement) -> None:
    """Compare with timm's own list of features: token sequences and channels-last maps do not fit."""
    for info in timm_features(backbone):
        node = traced.outputs.get(info["module"])
        shape = seen.shapes.get(node) if node is not None else None
        if shape is not None and (len(shape) != 4 or shape[1] != info["num_chs"]):
            raise NotTraceableError(
                f"`{info['module']}` puts out shape {shape}, not (batch, {info['num_chs']}, height, width)"
            )


def _named_kinds(backbone: nn.Module, traced: Trace, seen: Measurement) -> Iterator[tuple[str, LayerKind]]:
    blocks, rows = _blocks_and_rows(backbone, traced, seen)
    listed = [info["module"] for info in timm_features(backbone)]
    same = {traced.outputs[name] for name in listed if name in traced.outputs}
    yield from ((name, "block") for name in blocks)
    yield from ((name, "stage") for name in listed)
    yield from ((name, "stage") for name in rows if traced.outputs.get(name) not in same)
    yield from ((name, "conv") for name, module in backbone.named_modules() if isinstance(module, nn.Conv2d))


def timm_features(backbone: nn.Module) -> list[dict[str, Any]]:
    """timm's own list of features: module name, channels and reduction of each."""
    return list(getattr(backbone, "feature_info", None) or [])


def _blocks_and_rows(backbone: nn.Module, traced: Trace, seen: Measurement) -> tuple[list[str], list[str]]:
    """Name the blocks, and the containers that hold blocks directly."""
    blocks: list[str] = []
    waiting = list(_named_parts("", backbone))
    while waiting:
        path, module = waiting.pop(0)
        if _is_layer(module):
            continue
        if _is_container(path, module, traced, seen):
            waiting = list(_named_parts(path, module)) + waiting
        elif type(module) is not nn.Sequential:
            blocks.append(path)
    blocks = _up_to_deepest_feature(backbone, traced, blocks)
    rows = dict.fromkeys(block.rpartition(".")[0] for block in blocks)
    return blocks, [row for row in rows if row]


def _up_to_deepest_feature(backbone: nn.Module, traced: Trace, blocks: list[str]) -> list[str]:
    listed = [info["module"] for info in timm_features(backbone)]
    deepest = [traced.outputs[name] for name in listed if name in traced.outputs][-1:]
    needed = sources(deepest[0]) if deepest else set(traced.graph.nodes)
    return [name for name in blocks if traced.outputs.get(name) in needed]


def _named_parts(path: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return ((f"{path}.{name}" if path else name, part) for name, part in module.named_children())


def _is_container(path: str, module: nn.Module, traced: Trace, seen: Measurement) -> bool:
    """Say whether a module only hands features from one part with blocks to the next."""
    parts = [part for part in module.children() if _has_weights(part)]
    if type(module) in (nn.Sequential, nn.ModuleList):
        return any(not _is_layer(part) for part in parts)
    computes = any(node in seen.shapes for node in traced.own_nodes.get(path, ()))
    is_whole_block = type(module) in get_notrace_modules()
    return not computes and not is_whole_block and not any(_is_layer(part) for part in parts)


def _is_layer(module: nn.Module) -> bool:
    """Say whether a module is smaller than a block: without weights or parts, or made as a layer."""
    if not _has_weights(module) or not any(True for _ in module.children()):
        return True
    return is_torch_layer(module) or type(module).__module__.startswith("timm.layers")


def _has_weights(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())
