"""Copies of models, whatever they keep."""

import copy
from collections import OrderedDict
from typing import Any, TypeVar

from torch import Tensor, nn

__all__ = ["copy_model"]

M = TypeVar("M", bound=nn.Module)


def copy_model(model: M, *, share_parameters: bool = False) -> M:
    """Return a deep copy, on the same device.

    Args:
        model: Left as it is.
        share_parameters: Whether the copy has the same parameters instead of copies of them.


    Tensors with a history, which models cache in eval mode and which ``copy.deepcopy`` refuses, are copied
    without it.
    """
    memo: dict[int, Any] = {id(own): own for own in model.parameters()} if share_parameters else {}
    for module in model.modules():
        for value in vars(module).values():
            if type(value) in (dict, OrderedDict) and not value:
                memo[id(value)] = type(value)()  # a module has a dozen; copy.deepcopy is slow on them
            else:
                _detach_into(memo, value)
    return copy.deepcopy(model, memo)


def _detach_into(memo: dict[int, Any], value: Any) -> None:
    if isinstance(value, Tensor):
        if not value.is_leaf:
            memo[id(value)] = value.detach().clone()
    elif isinstance(value, dict):
        for entry in value.values():
            _detach_into(memo, entry)
    elif isinstance(value, list | tuple):
        for entry in value:
            _detach_into(memo, entry)
