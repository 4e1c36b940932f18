"""Other values for weights while a network runs, made as they are read: there is never a second copy of them all."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lomt.structure import OperationWatch

__all__ = ["MaskedWeights"]

_CONVOLUTION = torch.ops.aten.convolution.default
_CHANNELS = ({0}, {1}, {0, 1})


class MaskedWeights(OperationWatch):
    """Gives every operation that reads a weight its stand-in, with slices at zero.

    Args:
        stand_ins: What is read instead of a weight, by the ``id`` of the weight.
        removed: (removed,) positions at zero by dimension, by the ``id`` of the weight.
    """

    def __init__(self, stand_ins: Mapping[int, Tensor], removed: Mapping[int, Mapping[int, Tensor]]) -> None:
        super().__init__()
        self._stand_ins, self._removed = stand_ins, removed

    def carry_out(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if func is _CONVOLUTION:
            features, weight, bias, stride, padding, dilation, is_transposed, output_padding, groups = args
            if self._removed.get(id(weight), {}).keys() in _CHANNELS and groups == 1 and not is_transposed:
                settings = (stride, padding, dilation, is_transposed, output_padding, groups)
                return self._convolution(features, weight, self._read(bias), settings)
        return func(*self._read(args), **self._read(kwargs))

    def _read(self, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return type(value)(map(self._read, value))
        if isinstance(value, dict):
            return {name: self._read(entry) for name, entry in value.items()}
        weight = self._stand_ins.get(id(value), value)
        if id(value) not in self._removed:
            return weight
        masked = weight.detach().clone()
        for dim, positions in self._removed[id(value)].items():
            masked.index_fill_(dim, positions, 0)
        return masked

    def _convolution(
        self,
        features: Float[Tensor, "B I *size"],
        weight: Float[Tensor, "O I *kernel"],
        bias: Float[Tensor, " O"] | None,
        settings: Sequence[Any],
    ) -> Float[Tensor, "B O *size_out"]:
        """Convolve without what is zero: with half of the channels masked a quarter of the work is left."""
        removed = self._removed[id(weight)]
        slim = self._stand_ins.get(id(weight), weight).detach()
        if 0 in removed:
            computed = _others(weight.shape[0], removed[0])
            slim = slim.index_select(0, computed)
        if 1 in removed:
            kept = _others(weight.shape[1], removed[1])
            slim, features = slim.index_select(1, kept), features.index_select(-slim.ndim + 1, kept)
        result: Tensor = _CONVOLUTION(features, slim, None, *settings)
        if 0 in removed:
            channel = -slim.ndim + 1
            shape = list(result.shape)
            shape[channel] = weight.shape[0]
            result = result.new_zeros(shape).index_copy_(channel, computed, result)
        if bias is not None:
            result += bias.reshape(-1, *(1,) * (slim.ndim - 2))
        return result


def _others(count: int, removed: Int[Tensor, " removed"]) -> Int[Tensor, " kept"]:
    stays = torch.ones(count, dtype=torch.bool, device=removed.device)
    stays[removed] = False
    return stays.nonzero().flatten()
