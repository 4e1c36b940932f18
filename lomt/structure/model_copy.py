"""Copies of models, whatever they keep."""

import copy
import copyreg
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

__all__ = ["copy_model"]

M = TypeVar("M", bound=nn.Module)

_IMMUTABLE = frozenset({bool, int, float, str, type(None), torch.Size, torch.dtype, torch.device})
_SAYS_HOW = (
    "__deepcopy__",
    "__getnewargs__",
    "__getnewargs_ex__",
    "__getstate__",
    "__reduce__",
    "__reduce_ex__",
)


def copy_model(model: M, *, share_parameters: bool = False) -> M:
    """Return a deep copy, on the same device.

    What ``copy.deepcopy`` does, about twice as fast: modules that do not say otherwise, their dicts and their
    buffers are copied without asking each for how that is done. Tensors with a history, which models cache in eval
    mode and which ``copy.deepcopy`` refuses, are copied without it.

    Args:
        model: Left as it is.
        share_parameters: Whether the copy has the same parameters instead of copies of them.
    """
    memo: dict[int, Any] = {id(own): own for own in model.parameters()} if share_parameters else {}
    held = (value for module in model.modules() for value in vars(module).values())
    _copy_tensors({id(tensor): tensor for tensor in _tensors_in(held) if id(tensor) not in memo}, memo)
    copied: M = _Copier(memo).module(model)
    return copied


class _Copier:
    """``copy.deepcopy`` for modules.

    Args:
        memo: Copies by the ``id`` of what they are copies of, shared with ``copy.deepcopy``.
    """

    def __init__(self, memo: dict[int, Any]) -> None:
        self._memo = memo
        self._plain: dict[type, bool] = {}

    def module(self, own: Any) -> Any:
        """Return the one copy of a module."""
        if id(own) in self._memo:
            return self._memo[id(own)]
        kind: Any = type(own)
        if kind not in self._plain:
            self._plain[kind] = _is_plain(kind)
        if not self._plain[kind] or "__deepcopy__" in vars(own):
            return copy.deepcopy(own, self._memo)
        copied = self._memo[id(own)] = kind.__new__(kind)
        state = own.__getstate__()
        copied.__setstate__({name: self._value(value) for name, value in state.items()})
        return copied

    def _value(self, value: Any) -> Any:
        kind = type(value)
        if kind in _IMMUTABLE:
            return value
        if id(value) in self._memo:
            return self._memo[id(value)]
        if isinstance(value, nn.Module):
            return self.module(value)
        if kind in (dict, OrderedDict, set) and not value:  # a module has a dozen
            copied = self._memo[id(value)] = kind()
        elif kind is dict and all(type(key) is str for key in value):
            copied = self._memo[id(value)] = {}
            copied.update((key, self._value(entry)) for key, entry in value.items())
        else:
            copied = copy.deepcopy(value, self._memo)
        return copied


def _is_plain(kind: type) -> bool:
    """Whether a class of modules leaves to Python how its objects are copied."""
    bases = [vars(base) for base in kind.__mro__ if base not in (nn.Module, object)]
    return kind not in copyreg.dispatch_table and not any(
        name in base for base in bases for name in _SAYS_HOW
    )


def _tensors_in(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, dict):
            yield from _tensors_in(value.values())
        elif isinstance(value, list | tuple):
            yield from _tensors_in(value)


def _copy_tensors(tensors: dict[int, Tensor], memo: dict[int, Any]) -> None:
    """Copy those with a history, and those that are all there is in their storage: the plain case."""
    plain = {place: tensor for place, tensor in tensors.items() if _is_whole(tensor)}
    places = Counter(tensor.data_ptr() for tensor in tensors.values() if tensor.layout == torch.strided)
    for place, tensor in tensors.items():
        if not tensor.is_leaf or (place in plain and places[tensor.data_ptr()] == 1):
            memo[place] = tensor.detach().clone()


def _is_whole(tensor: Tensor) -> bool:
    is_ordinary = type(tensor) is Tensor and tensor.layout == torch.strided and not vars(tensor)
    if (
        not is_ordinary
        or tensor.is_meta
        or tensor.requires_grad
        or tensor.is_quantized
        or tensor.is_inference()
    ):
        return False
    return tensor.untyped_storage().nbytes() == tensor.nbytes and not tensor.dtype.is_complex
