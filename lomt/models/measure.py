"""What a backbone's graph would do with images of a given size, found without computing anything.

Everything runs on a copy of the model whose tensors have shapes but no data (torch's ``meta`` device), so
that weights, running statistics and the random state stay as they are.
"""

import contextlib
import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import fx, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from lomt.models.graph import NotTraceableError

__all__ = ["Measurement", "counting", "image_size", "is_map", "measure", "reduction_of", "without_data"]

AnyModule = TypeVar("AnyModule", bound=nn.Module)


@dataclass(frozen=True)
class Measurement:
    """What was seen in one run over images without data.

    Args:
        size: Height and width of the images in pixels.
        shapes: Shape of every node that carries a tensor.
        macs: Multiply-accumulates of every node, 0 where they were not counted.
        overwritten: Nodes whose tensor is changed in place by a later node.
    """

    size: tuple[int, int]
    shapes: Mapping[fx.Node, tuple[int, ...]]
    macs: Mapping[fx.Node, int]
    overwritten: frozenset[fx.Node]


def measure(
    twin: nn.Module,
    graph: fx.Graph,
    size: tuple[int, int],
    *,
    training: bool = False,
    batch: int = 1,
    counts: bool = False,
) -> Measurement:
    """Run a graph of a backbone on images without data.

    Args:
        twin: The backbone :func:`without_data`; its mode is set.
        graph: A graph of the backbone, for example from :func:`lomt.models.graph.trace`.
        size: Height and width of the images in pixels.
        training: Mode in which the modules run.
        batch: Number of images.
        counts: Whether to count multiply-accumulates, which takes longer.

    Raises:
        NotTraceableError: The graph cannot run on images of this size.
    """
    flops = FlopCounterMode(display=False)
    run = _Run(twin.train(training), graph, flops)
    try:
        with counting(flops if counts else contextlib.nullcontext()):
            run.run(torch.empty(batch, 3, *size))
    except Exception as error:  # the model's own code runs: anything may be raised
        text = str(error).splitlines()
        raise NotTraceableError(f"{type(error).__name__}: {text[0] if text else ''}") from error
    versions = {node: value._version for node, value in run.env.items() if isinstance(value, torch.Tensor)}
    overwritten = frozenset(node for node, seen in run.versions.items() if versions[node] != seen)
    return Measurement(size, run.shapes, run.macs, overwritten)


def without_data(module: AnyModule) -> AnyModule:
    """Copy a module; the copy's parameters and buffers have shapes only, and no data is copied."""
    memo: dict[int, Any] = {id(buffer): buffer.to("meta") for buffer in module.buffers()}
    for parameter in module.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
    return copy.deepcopy(module, memo)


@contextlib.contextmanager
def counting(counter: contextlib.AbstractContextManager[Any]) -> Iterator[None]:
    """Run modules :func:`without_data` under a counter; attention is spelt out, so that it is counted."""
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), torch.device("meta"), counter:
        yield


def image_size(backbone: nn.Module) -> tuple[int, int]:
    """Height and width of images that the backbone takes: its own fixed size, or the one it was made for."""
    own = getattr(getattr(backbone, "patch_embed", None), "img_size", None)
    if own is not None:
        return int(own[0]), int(own[1])
    height, width = getattr(backbone, "pretrained_cfg", {}).get("input_size", (3, 224, 224))[1:]
    return height, width


def reduction_of(image: tuple[int, int], shape: tuple[int, ...]) -> int:
    """Image height over feature height: the nearest power of two where rounding explains the rest.

    Example:
        Images of 224 pixels give 4 rows at reduction 64, images of 518 pixels 37 rows at reduction 14.

        >>> reduction_of((224, 224), (1, 8, 4, 4)), reduction_of((518, 518), (1, 8, 37, 37))
        (64, 14)

    Args:
        image: Height and width of the image in pixels.
        shape: Shape of the features, (batch, channels, height, width).
    """
    ratio = image[0] / shape[2]
    power: int = 2 ** round(math.log2(ratio))
    rounds = shape[2] in (image[0] // power, -(-image[0] // power))
    return power if rounds or ratio != int(ratio) else int(ratio)


def is_map(shape: tuple[int, ...] | None) -> bool:
    """Say whether a shape is that of a feature map: four axes, and more than one pixel."""
    return shape is not None and len(shape) == 4 and shape[2] * shape[3] > 1


class _Run(fx.Interpreter):
    """Notes shape, cost and version of every node's tensor."""

    def __init__(self, twin: nn.Module, graph: fx.Graph, flops: FlopCounterMode) -> None:
        super().__init__(twin, garbage_collect_values=False, graph=graph)
        self.extra_traceback = False
        self.flops = flops
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}
        self.macs: dict[fx.Node, int] = {}
        self.versions: dict[fx.Node, int] = {}

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if isinstance(self.submodules[target], _BatchNorm):
            return torch.empty_like(args[0])  # its output's form; running it is most of a run's time
        return super().call_module(target, args, kwargs)

    def run_node(self, n: fx.Node) -> Any:
        before = self.flops.get_total_flops()
        value = super().run_node(n)
        self.macs[n] = (self.flops.get_total_flops() - before) // 2
        if isinstance(value, torch.Tensor):
            self.shapes[n] = tuple(value.shape)
            self.versions[n] = value._version
        return value
