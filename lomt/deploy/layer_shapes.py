"""The sizes of every convolution and linear layer of a network, before and after channels are gone."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lomt.structure import Inputs, Resolved, copy_model, named_tensors, run_model

__all__ = ["Kind", "LayerCall", "LayerShape", "layer_calls"]

Operator = Literal["conv", "transposed", "linear"]

Kind = Literal["conv", "pointwise", "depthwise", "grouped", "transposed", "linear"]
"""Layers of one kind are computed by one algorithm, so that one formula gives their times."""

_NUMBER_BYTES = 4
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class LayerShape:
    """What decides how long a layer takes.

    Args:
        operator: What it computes.
        in_channels: Channels it reads.
        out_channels: Channels it computes.
        input_size: Height and width (or as many sizes as it has) of what it reads; (rows,) of a linear layer.
        output_size: The same of what it computes.
        kernel: As long as the sizes; empty for a linear layer, as ``stride`` and ``dilation`` are.
        stride: Steps of the kernel.
        dilation: Spacing of the kernel's entries.
        groups: Groups of channels that do not see each other.
        batch: Samples; 1 for a linear layer, whose rows count all.
    """

    operator: Operator
    in_channels: int
    out_channels: int
    input_size: tuple[int, ...]
    output_size: tuple[int, ...]
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    batch: int = 1

    @property
    def kind(self) -> Kind:
        """Which algorithm computes it."""
        if self.operator != "conv":
            return self.operator
        if self.groups > 1:
            return "depthwise" if self.groups == self.in_channels == self.out_channels else "grouped"
        return "pointwise" if prod(self.kernel) == 1 else "conv"

    @property
    def weight_sizes(self) -> tuple[int, ...]:
        """Shape of the weight: (out, in / groups, *kernel), channels the other way round if transposed."""
        if self.operator == "transposed":
            return (self.in_channels, self.out_channels // self.groups, *self.kernel)
        return (self.out_channels, self.in_channels // self.groups, *self.kernel)

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        size = self.input_size if self.operator == "transposed" else self.output_size
        return self.batch * prod(size) * prod(self.weight_sizes)

    @property
    def input_bytes(self) -> int:
        """Bytes of what it reads, as float32."""
        return _NUMBER_BYTES * self.batch * self.in_channels * prod(self.input_size)

    @property
    def output_bytes(self) -> int:
        """Bytes of what it computes, as float32."""
        return _NUMBER_BYTES * self.batch * self.out_channels * prod(self.output_size)

    def with_channels(self, in_channels: int, out_channels: int) -> "LayerShape":
        """Return the layer with other widths; a depthwise one takes the second as its number of groups."""
        if self.kind == "depthwise":
            return replace(self, in_channels=out_channels, out_channels=out_channels, groups=out_channels)
        return replace(self, in_channels=in_channels, out_channels=out_channels)

    def shrunk(self, most_macs: int) -> "LayerShape":
        """Return the layer on smaller maps, or fewer rows, so that it costs no more MACs if that is possible."""
        shape = replace(self, batch=1)
        while shape.macs > most_macs and min(shape.output_size) > 1:
            halves = tuple((size + 1) // 2 for size in shape.input_size)
            ratio = [half / size for half, size in zip(halves, shape.input_size, strict=True)]
            outputs = tuple(
                max(1, int(size * part)) for size, part in zip(shape.output_size, ratio, strict=True)
            )
            shape = replace(shape, input_size=halves, output_size=outputs)
        return shape

    def __str__(self) -> str:
        kernel = "x".join(map(str, self.kernel))
        steps = f" stride {'x'.join(map(str, self.stride))}" if prod(self.stride) > 1 else ""
        groups = f" in {self.groups} groups" if self.kind == "grouped" else ""
        size = "x".join(map(str, self.input_size)) + (" rows" if self.operator == "linear" else "")
        name = " ".join(filter(None, [self.kind, kernel]))
        return f"{name}{steps}{groups}, {self.in_channels} -> {self.out_channels}, {size}"


@dataclass(frozen=True)
class LayerCall:
    """One run of a layer.

    Args:
        layer: Dotted path.
        weight: Dotted name of its weight in the structure; empty where there is none.
        shape: Its sizes.
    """

    layer: str
    weight: str
    shape: LayerShape

    def narrowed(self, resolved: Resolved) -> LayerShape:
        """Return its sizes once channels are gone.

        Args:
            resolved: Kept positions and changed numbers, of the structure the choice was made for.
        """
        kept = resolved.tensors.get(self.weight, {})
        groups = self.shape.groups
        for module, attribute, _, value in resolved.attributes:
            if (module, attribute) == (self.layer, "groups"):
                groups = value
        before = self.shape.weight_sizes[:2]
        first, second = (len(kept[dim]) if dim in kept else size for dim, size in enumerate(before))
        second *= groups
        own = (first, second) if self.shape.operator == "transposed" else (second, first)
        return replace(self.shape, in_channels=own[0], out_channels=own[1], groups=groups)


def layer_calls(model: nn.Module, example_inputs: Inputs) -> tuple[LayerCall, ...]:
    """Run a copy of the model once and note every run of a convolution or linear layer, in order.

    Args:
        model: The network; left as it is.
        example_inputs: As :func:`lomt.structure.trace_structure` takes them.
    """
    model = copy_model(model).eval()
    tensors = named_tensors(model)
    calls: list[LayerCall] = []
    for path, module in model.named_modules():
        describe = _description(module)
        if describe is not None:
            weight = _weight_name(path, module, tensors)
            module.register_forward_hook(partial(_note, calls, path, weight, describe))
    with torch.no_grad():
        run_model(model, example_inputs)
    return tuple(calls)


Description = Callable[[Any, Tensor, Tensor], LayerShape]


def _description(module: nn.Module) -> Description | None:
    if isinstance(module, nn.Linear):
        return _linear_shape
    if isinstance(module, _CONVOLUTIONS + _TRANSPOSED):
        return _conv_shape
    return None


def _note(
    calls: list[LayerCall],
    path: str,
    weight: str,
    describe: Description,
    module: nn.Module,
    args: tuple[Any, ...],
    output: Any,
) -> None:
    if args and isinstance(args[0], Tensor) and isinstance(output, Tensor):
        calls.append(LayerCall(path, weight, describe(module, args[0], output)))


def _linear_shape(module: Any, features: Tensor, output: Tensor) -> LayerShape:
    rows = (max(1, features.numel() // features.shape[-1]),)
    return LayerShape("linear", features.shape[-1], output.shape[-1], rows, rows)


def _conv_shape(module: Any, features: Tensor, output: Tensor) -> LayerShape:
    dims = len(module.kernel_size)
    return LayerShape(
        operator="transposed" if isinstance(module, _TRANSPOSED) else "conv",
        in_channels=features.shape[-dims - 1],
        out_channels=output.shape[-dims - 1],
        input_size=tuple(features.shape[-dims:]),
        output_size=tuple(output.shape[-dims:]),
        kernel=tuple(module.kernel_size),
        stride=tuple(module.stride),
        dilation=tuple(module.dilation),
        groups=module.groups,
        batch=features.shape[0] if features.ndim == dims + 2 else 1,
    )


def _weight_name(path: str, module: nn.Module, tensors: Mapping[str, Tensor]) -> str:
    """Find the name that the structure uses: the first of a shared weight, the original of a parametrised one."""
    weight: Any = module.weight
    for name, tensor in tensors.items():
        if tensor is weight:
            return name
    prefix = f"{path}." if path else ""
    return next(
        (name for name, own in tensors.items() if name.startswith(prefix) and own.shape == weight.shape), ""
    )
