"""Modules that take the place of parts that compute nothing any more."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from lomt.errors import ArtifactError

__all__ = ["Constant", "Layout", "Skip", "Spread", "build_replacement", "output_size"]

Layout = Literal["first", "last"]
"""Where the channels stand: after the batch, or last."""

Spread = Literal["small", "expanded", "full"]
"""What a constant is handed out as: one position to be broadcast, a view of the full size, or memory of its own."""

Window = Sequence[Sequence[int]]
"""Kernel, stride, padding of both sides together, and dilation, of every spatial dimension; none: size unchanged."""

Size = int | torch.SymInt
"""Number of positions; symbolic while a network is exported."""


def output_size(size: Size, window: Sequence[int]) -> Size:
    """Return how many positions a window finds in a dimension.

    Args:
        size: Positions before.
        window: Kernel, stride, padding of both sides together, dilation.
    """
    kernel, stride, padding, dilation = window
    return (size + padding - dilation * (kernel - 1) - 1) // stride + 1


class _Shaped(nn.Module):
    def __init__(self, layout: Layout, window: Window) -> None:
        super().__init__()
        self.layout = layout
        self.window = tuple(tuple(own) for own in window)

    def _shape(self, features: Tensor, channels: int) -> tuple[Size, ...]:
        if self.layout == "last":
            return (*features.shape[:-1], channels)
        sizes: tuple[Size, ...] = tuple(features.shape[2:])
        if self.window:
            sizes = tuple(output_size(size, own) for size, own in zip(sizes, self.window, strict=True))
        return (features.shape[0], channels, *sizes)


class Constant(_Shaped):
    """Map from features to the same constant per channel at every position.

    The constant is a buffer: it is saved with the weights and loses channels like any other tensor.

    Args:
        values: (channels,).
        layout: Where the channels stand in the result.
        window: How the result's positions follow from those of the features.
        spread: ``"full"`` where something writes into the result, ``"small"`` where it is only added or
            multiplied to something of the full size.
    """

    value: Tensor

    def __init__(self, values: Tensor, layout: Layout, window: Window = (), spread: Spread = "full") -> None:
        super().__init__(layout, window)
        self.spread = spread
        self.register_buffer("value", values)

    def forward(self, features: Tensor, *_: Any, **__: Any) -> Tensor:
        """Return the constant; of the features only the shape matters, further arguments do not."""
        value = self.value.to(device=features.device, dtype=features.dtype)
        positions = features.ndim - (2 if self.layout == "first" else 1)
        if self.layout == "first":
            value = value.reshape(1, -1, *[1] * positions)
        else:
            value = value.reshape(*[1] * positions, -1)
        if self.spread == "small":
            return value
        spread = value.expand(self._shape(features, self.value.shape[0]))
        return spread if self.spread == "expanded" else spread.clone(memory_format=torch.contiguous_format)

    def extra_repr(self) -> str:
        """Name the settings."""
        return f"{self.value.shape[0]}, layout={self.layout}, spread={self.spread}"


class Skip(_Shaped):
    """Map from features to zeros of the shape that a layer would have given them, at no cost.

    It stands for a layer whose result nobody needs, so that what follows finds the shape it expects.

    Args:
        channels: Channels of the result.
        layout: Where they stand.
        window: How the result's positions follow from those of the features.
        is_writable: Whether something writes into the result; it then has memory of its own.
    """

    def __init__(self, channels: int, layout: Layout, window: Window = (), is_writable: bool = False) -> None:
        super().__init__(layout, window)
        self.channels = channels
        self.is_writable = is_writable

    def forward(self, features: Tensor, *_: Any, **__: Any) -> Tensor:
        """Return zeros; of the features only the shape matters, further arguments do not."""
        if self.is_writable:
            return features.new_zeros(self._shape(features, self.channels))
        return features.new_zeros([1] * features.ndim).expand(self._shape(features, self.channels))

    def extra_repr(self) -> str:
        """Name the settings."""
        return f"{self.channels}, layout={self.layout}, is_writable={self.is_writable}"


def build_replacement(kind: str, options: Mapping[str, Any]) -> nn.Module:
    """Build what takes a module's place.

    Args:
        kind: ``"identity"``, ``"skip"`` or ``"constant"``.
        options: ``"identity"`` has none. Both others have ``channels``, ``layout`` and ``window``, see
            :class:`Skip`; ``"skip"`` has ``is_writable``; ``"constant"`` has ``spread``, ``dtype`` and ``values``,
            a number a channel, or one for all.

    Raises:
        ArtifactError: There is no such kind, or an option is missing, unknown or makes no sense.
    """
    if kind not in _OPTIONS:
        raise ArtifactError(f"Expected a replacement to be one of {', '.join(_OPTIONS)}, but got `{kind}`.")
    if set(options) != _OPTIONS[kind]:
        expected = ", ".join(sorted(_OPTIONS[kind])) or "none"
        raise ArtifactError(
            f"Expected the options of replacement `{kind}` to be {expected}, but got {', '.join(sorted(options))}."
        )
    if kind == "identity":
        return nn.Identity()
    _check(kind, options)
    channels, layout, window = options["channels"], options["layout"], options["window"]
    if kind == "skip":
        return Skip(channels, layout, window, options["is_writable"])
    values = torch.tensor(options["values"], dtype=getattr(torch, options["dtype"]))
    return Constant(values.expand(channels).clone(), layout, window, options["spread"])


_SHAPE = {"channels", "layout", "window"}
_OPTIONS: Mapping[str, set[str]] = {
    "identity": set(),
    "skip": {*_SHAPE, "is_writable"},
    "constant": {*_SHAPE, "spread", "dtype", "values"},
}
_DTYPES = ("float64", "float32", "float16", "bfloat16")


def _check(kind: str, options: Mapping[str, Any]) -> None:
    channels = options["channels"]
    _expect(kind, options, "channels", "to be a positive integer", _is_count(channels, 1))
    _expect(kind, options, "layout", "to be first or last", options["layout"] in get_args(Layout))
    _expect(kind, options, "window", "to be lists of four integers", _is_window(options["window"]))
    if kind == "skip":
        _expect(kind, options, "is_writable", "to be true or false", isinstance(options["is_writable"], bool))
        return
    values = options["values"]
    is_listed = isinstance(values, list | tuple) and all(type(own) in (int, float) for own in values)
    _expect(
        kind,
        options,
        "spread",
        f"to be one of {', '.join(get_args(Spread))}",
        options["spread"] in get_args(Spread),
    )
    _expect(kind, options, "dtype", f"to be one of {', '.join(_DTYPES)}", options["dtype"] in _DTYPES)
    condition = f"to be {channels} numbers, or one"
    _expect(kind, options, "values", condition, is_listed and len(values) in (1, channels))


def _expect(kind: str, options: Mapping[str, Any], key: str, condition: str, is_met: bool) -> None:
    if not is_met:
        raise ArtifactError(
            f"Expected option `{key}` of replacement `{kind}` {condition}, but got {str(options[key])[:80]}."
        )


def _is_count(value: Any, least: int) -> bool:
    return type(value) is int and value >= least


def _is_window(window: Any) -> bool:
    if not isinstance(window, list | tuple):
        return False
    return all(
        isinstance(own, list | tuple)
        and len(own) == 4
        and all(_is_count(value, least) for value, least in zip(own, (1, 1, 0, 1), strict=True))
        for own in window
    )
