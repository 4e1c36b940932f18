"""Which entries of a weight belong to which channel: the groups that sparsity zeroes together."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lomt.errors import UnknownNameError, UnsupportedLayerError

__all__ = [
    "AXES",
    "Axis",
    "LayerGroups",
    "channel_groups",
    "expand_groups",
    "group_rows",
    "group_view",
    "squared_norms",
    "zero_groups",
]

Axis = Literal["in", "out"]
AXES = ("in", "out")

# Weights of these kinds, and of classes derived from them, are stored as (out, in / conv_groups, *kernel).
_OUT_FIRST = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


@dataclass(frozen=True)
class LayerGroups:
    """The channel groups of one layer's weight.

    With `axis="in"` there is one group an input channel, ``W[:, c]``, as the papers have it; in a convolution
    of several `conv_groups` a channel is read by its own block of filters only, and the group is that part.
    A depthwise convolution so has as many groups as channels. With `axis="out"` a group is one filter.

    Args:
        name: The layer's dotted path.
        axis: Which channels form the groups.
        count: Number of groups: the layer's input or output channels.
        size: Entries of one group.
        conv_groups: The convolution's own `groups`.

    References:
        Upadhyay et al., "Less is More - Towards parsimonious multi-task models using structured sparsity",
        2024, https://arxiv.org/abs/2308.12114, section on group sparsity.
    """

    name: str
    axis: Axis
    count: int
    size: int
    conv_groups: int = 1


def channel_groups(
    module: nn.Module,
    *,
    axis: Axis = "in",
    prefix: str = "",
    kinds: Sequence[type[nn.Module]] = (nn.Conv2d,),
) -> list[tuple[str, Tensor, LayerGroups]]:
    """List the channel groups of every layer of the given kinds, layer by layer.

    Groups of different layers are independent of each other, as published. A weight that two layers share is
    listed once. Where a weight is parametrised, the effective weight is listed, a tensor without gradient.

    Args:
        module: Where to look, itself included.
        axis: Which channels form the groups.
        prefix: Put before every name, with a dot.
        kinds: Kinds of layers; classes derived from them count. Known are Conv1d, Conv2d, Conv3d and Linear.

    Returns:
        Name of the parameter, the parameter and its groups, in the order of the module's layers.

    Raises:
        UnknownNameError: If `axis` is neither ``"in"`` nor ``"out"``.
        UnsupportedLayerError: If one of `kinds` has no known weight layout.

    Example:
        >>> [(name, groups.count, groups.size) for name, _, groups in channel_groups(nn.Conv2d(4, 8, 3))]
        [('weight', 4, 72)]
    """
    _check_axis(axis)
    _check_kinds(kinds)
    found = []
    seen = set()
    for layer_name, layer in module.named_modules(prefix=prefix):
        if not isinstance(layer, tuple(kinds)):
            continue
        with torch.no_grad():
            weight = cast(nn.Linear, layer).weight  # each of the kinds has one
        if id(weight) in seen:
            continue
        seen.add(id(weight))
        groups = _layer_groups(layer_name, weight, axis, getattr(layer, "groups", 1))
        found.append((f"{layer_name}.weight" if layer_name else "weight", weight, groups))
    return found


def squared_norms(
    weight: Float[Tensor, "out in *kernel"], axis: Axis, conv_groups: int = 1
) -> Float[Tensor, " groups"]:
    """Return the sum of squares of every group, in float32 at least.

    Args:
        weight: Weight stored as (out, in / `conv_groups`, *kernel).
        axis: Which channels form the groups.
        conv_groups: The convolution's own `groups`.
    """
    rows = group_rows(weight, axis, conv_groups)
    rows = rows if rows.dtype in (torch.float32, torch.float64) else rows.float()
    return rows.square().sum(dim=1)


def zero_groups(
    weight: Float[Tensor, "out in *kernel"], axis: Axis, conv_groups: int = 1
) -> Bool[Tensor, " groups"]:
    """Tell which groups have no entry other than zero; exact, squares would underflow."""
    return ~(group_rows(weight, axis, conv_groups) != 0).any(dim=1)


def group_rows(
    weight: Float[Tensor, "out in *kernel"], axis: Axis, conv_groups: int = 1
) -> Float[Tensor, "groups size"]:
    """Return the weight with one row a group; differentiable, a copy where memory order demands it."""
    out = weight.shape[0]
    if axis == "out":
        return weight.reshape(out, -1)
    blocks = weight.reshape(conv_groups, out // conv_groups, weight.shape[1], -1)
    return blocks.transpose(1, 2).flatten(0, 1).flatten(1)


def group_view(
    weight: Float[Tensor, "out in *kernel"], axis: Axis, conv_groups: int = 1
) -> Float[Tensor, "blocks reduced channels kernel"]:
    """Return the weight's own memory as a matrix-like view whose long runs are contiguous.

    A group is what shares `blocks` and `channels`; counted row by row these two give the group's number.
    Summing over `reduced` first and `kernel` last walks through memory in order, for the usual memory format
    and for channels-last.

    Args:
        weight: Weight stored as (out, in / `conv_groups`, *kernel), dense in one of the two formats.
        axis: Which channels form the groups.
        conv_groups: The convolution's own `groups`.

    Raises:
        ValueError: If the weight's memory is neither contiguous nor channels-last.
    """
    out, inputs = weight.shape[:2]
    kernel_inside = weight.is_contiguous()
    if not kernel_inside:
        weight = weight.movedim(1, -1)
        if not weight.is_contiguous():
            raise ValueError(
                f"Expected `weight` to be contiguous or channels-last, but got strides {weight.stride()}. "
                "Use weight.contiguous()."
            )
    if axis == "out":
        return weight.view(out, -1, 1, 1)
    if inputs == 1:
        return weight.view(conv_groups, -1, 1, 1)
    if kernel_inside:
        return weight.view(conv_groups, out // conv_groups, inputs, -1)
    return weight.view(conv_groups, -1, inputs, 1)


def expand_groups(
    values: Float[Tensor, " groups"],
    weight: Float[Tensor, "out in *kernel"],
    axis: Axis,
    conv_groups: int = 1,
) -> Float[Tensor, "..."]:
    """Return one value a group in a shape that broadcasts against the weight; differentiable."""
    ones = (1,) * (weight.ndim - 2)
    if axis == "out":
        return values.reshape(weight.shape[0], 1, *ones)
    blocks = values.reshape(conv_groups, weight.shape[1])
    if conv_groups > 1:
        blocks = blocks.repeat_interleave(weight.shape[0] // conv_groups, dim=0)
    return blocks.reshape(*blocks.shape, *ones)


def _layer_groups(name: str, weight: Tensor, axis: Axis, conv_groups: int) -> LayerGroups:
    count = weight.shape[0] if axis == "out" else weight.shape[1] * conv_groups
    return LayerGroups(name, axis, count, weight.numel() // count, conv_groups)


def _check_axis(axis: str) -> None:
    if axis not in AXES:
        raise UnknownNameError("axis", axis, AXES)


def _check_kinds(kinds: Sequence[type[nn.Module]]) -> None:
    for kind in kinds:
        if not issubclass(kind, _OUT_FIRST):
            known = ", ".join(known.__name__ for known in _OUT_FIRST)
            raise UnsupportedLayerError(
                f"Expected `kinds` to be layers with weights stored as (out, in, *kernel), but got "
                f"{kind.__name__}. Known are {known} and classes derived from them."
            )
