"""How the shape of a module's result follows from that of what it is given."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from lomt.pruning.data_flow import ModuleCall
from lomt.pruning.replacements import Layout, output_size

__all__ = ["Shape", "result_shape"]

Shape = tuple[Layout, list[list[int]]]
"""Where the channels stand, and the windows of the spatial dimensions; none where their sizes stay."""


def result_shape(module: nn.Module, call: ModuleCall) -> Shape | None:
    """Say how a module's result gets its shape.

    Args:
        module: The module.
        call: Its recorded call.

    Returns:
        What a replacement has to know; ``None`` where the recorded shapes follow no rule known here.
    """
    given, returned = call.given[1], call.returned[1]
    if len(given) != len(returned) or len(given) < 2:
        return None
    order: list[Layout] = ["first", "last"] if _is_channels_first(module, call) else ["last", "first"]
    for layout in order:
        if layout == "last" and given[:-1] == returned[:-1]:
            return layout, []
        if layout == "first" and len(given) > 2 and given[0] == returned[0]:
            window = _window(module, given[2:], returned[2:])
            if window is not None:
                return layout, window
    return None


def _is_channels_first(module: nn.Module, call: ModuleCall) -> bool:
    returned = call.returned[1]
    if call.channel_dim is not None:
        return call.channel_dim == 1 and len(returned) > 2
    if isinstance(module, nn.modules.conv._ConvNd | nn.modules.batchnorm._BatchNorm) or len(returned) == 2:
        return len(returned) > 2
    widths = {own.shape[0] for own in module.parameters() if own.ndim}
    fits_first, fits_last = returned[1] in widths, returned[-1] in widths
    return fits_first >= fits_last if len(returned) > 3 else fits_first > fits_last


def _window(module: nn.Module, before: Sequence[int], after: Sequence[int]) -> list[list[int]] | None:
    tries = [_own_window(module, len(before))]
    if list(before) == list(after):
        tries.append([])
    if set(after) == {1}:  # pooling over everything, whatever the size
        tries.append([[1, _MANY, 0, 1]] * len(before))
    tries.append([[1, -(-size // new), 0, 1] for size, new in zip(before, after, strict=True) if new])
    for window in tries:
        if window is None:
            continue
        sizes = (
            [output_size(size, own) for size, own in zip(before, window, strict=False)]
            if window
            else list(before)
        )
        if sizes == list(after):
            is_same = all(stride == 1 and pad == step * (kernel - 1) for kernel, stride, pad, step in window)
            return [] if is_same else window
    return None


def _own_window(module: nn.Module, dims: int) -> list[list[int]] | None:
    """The window of a convolution or pooling, from what it says of itself."""
    if not hasattr(module, "kernel_size") or getattr(module, "transposed", False):
        return None
    given = [getattr(module, name, default) for name, default in _WINDOW.items()]
    listed = [list(own) if isinstance(own, list | tuple) else [own] * dims for own in given]
    if any(len(own) != dims or not all(isinstance(value, int) for value in own) for own in listed):
        return None
    kernel, stride, padding, dilation = listed
    return [[k, s, 2 * p, d] for k, s, p, d in zip(kernel, stride, padding, dilation, strict=True)]


_WINDOW: Mapping[str, Any] = {"kernel_size": 1, "stride": 1, "padding": 0, "dilation": 1}
_MANY = 2**30
