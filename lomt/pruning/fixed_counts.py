"""Statistics that divide by a given number of values: how a network is compared with one that lost channels."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lomt.structure import OperationWatch
from lomt.structure.operations import arguments_by_name

__all__ = ["FixedCounts"]


class FixedCounts(OperationWatch):
    """Counts what statistics are taken over, or makes them divide by given counts.

    Args:
        counts: What to divide by, in the order of the operations; without them they are noted.
    """

    def __init__(self, counts: Sequence[float] | None = None) -> None:
        super().__init__()
        self._given = iter(counts) if counts is not None else None
        self.counts: list[float] = []

    def carry_out(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        statistic = _STATISTICS.get(func.overloadpacket.__name__)
        size = None if statistic is None else _over(func, args, kwargs)
        if statistic is None or size is None:
            return func(*args, **kwargs)
        self.counts.append(size)
        wanted = size if self._given is None else next(self._given, size)
        if wanted == size:
            return func(*args, **kwargs)
        return statistic(arguments_by_name(func, args, kwargs), wanted)


def _over(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> float | None:
    """How many values each statistic is taken over; ``None`` where none is taken."""
    name, features = func.overloadpacket.__name__, args[0]
    if name in ("native_layer_norm", "_fused_rms_norm"):
        return float(torch.Size(args[1]).numel())
    if name == "native_group_norm":
        return args[4] / args[6] * args[5]  # type: ignore[no-any-return]
    if name == "native_batch_norm":
        return features.numel() / features.shape[1] if args[5] else None  # type: ignore[no-any-return]
    dims = args[1] if len(args) > 1 else kwargs.get("dim")
    dims = [dims] if isinstance(dims, int) else dims or range(features.ndim)
    size = 1.0
    for dim in dims:
        size *= features.shape[dim]
    return size


def _moments(features: Tensor, dims: list[int], count: float) -> tuple[Tensor, Tensor]:
    mean = features.sum(dims, keepdim=True) / count
    return mean, (features.square().sum(dims, keepdim=True) / count - mean.square()).clamp(min=0)


def _mean(arguments: Mapping[str, Any], count: float) -> Tensor:
    features = arguments["self"]
    dims = arguments.get("dim") or list(range(features.ndim))
    return features.sum(dims, keepdim=bool(arguments.get("keepdim"))) / count  # type: ignore[no-any-return]


def _variance(arguments: Mapping[str, Any], count: float) -> tuple[Tensor, Tensor]:
    features, dims = arguments["self"], arguments.get("dim")
    dims = [dims] if isinstance(dims, int) else dims or list(range(features.ndim))
    mean, variance = _moments(features, dims, count)
    correction = arguments.get("correction")
    variance = variance * count / (count - (1 if correction is None else correction))
    if not arguments.get("keepdim"):
        for dim in sorted((dim % features.ndim for dim in dims), reverse=True):
            mean, variance = mean.squeeze(dim), variance.squeeze(dim)
    return variance, mean


def _deviation(arguments: Mapping[str, Any], count: float) -> Tensor:
    return _variance(arguments, count)[0].sqrt()


def _layer_norm(arguments: Mapping[str, Any], count: float) -> tuple[Tensor, Tensor, Tensor]:
    features, size = arguments["input"], len(arguments["normalized_shape"])
    dims = list(range(features.ndim - size, features.ndim))
    mean, variance = _moments(features, dims, count)
    rate = (variance + arguments["eps"]).rsqrt()
    return _affine((features - mean) * rate, arguments["weight"], arguments["bias"]), mean, rate


def _rms_norm(arguments: Mapping[str, Any], count: float) -> tuple[Tensor, Tensor]:
    features, size = arguments["input"], len(arguments["normalized_shape"])
    dims = list(range(features.ndim - size, features.ndim))
    eps = arguments["eps"] if arguments["eps"] is not None else torch.finfo(features.dtype).eps
    rate = (features.square().sum(dims, keepdim=True) / count + eps).rsqrt()
    return _affine(features * rate, arguments["weight"], None), rate


def _group_norm(arguments: Mapping[str, Any], count: float) -> tuple[Tensor, Tensor, Tensor]:
    features, groups = arguments["input"], arguments["group"]
    grouped = features.reshape(features.shape[0], groups, -1)
    mean, variance = _moments(grouped, [2], count)
    rate = (variance + arguments["eps"]).rsqrt()
    normed = ((grouped - mean) * rate).reshape(features.shape)
    ones = (1,) * (features.ndim - 2)
    weight, bias = (
        own if own is None else own.reshape(-1, *ones) for own in (arguments["weight"], arguments["bias"])
    )
    return _affine(normed, weight, bias), mean.squeeze(2), rate.squeeze(2)


def _batch_norm(arguments: Mapping[str, Any], count: float) -> tuple[Tensor, Tensor, Tensor]:
    features = arguments["input"]
    dims = [dim for dim in range(features.ndim) if dim != 1]
    mean, variance = _moments(features, dims, count)
    rate = (variance + arguments["eps"]).rsqrt()
    ones = (1,) * (features.ndim - 2)
    weight, bias = (
        own if own is None else own.reshape(-1, *ones) for own in (arguments["weight"], arguments["bias"])
    )
    return _affine((features - mean) * rate, weight, bias), mean.flatten(), rate.flatten()


def _affine(features: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    features = features if weight is None else features * weight
    return features if bias is None else features + bias


_STATISTICS: dict[str, Callable[[Mapping[str, Any], float], Any]] = {
    "mean": _mean,
    "var": lambda arguments, count: _variance(arguments, count)[0],
    "var_mean": _variance,
    "std": _deviation,
    "native_layer_norm": _layer_norm,
    "_fused_rms_norm": _rms_norm,
    "native_group_norm": _group_norm,
    "native_batch_norm": _batch_norm,
}
