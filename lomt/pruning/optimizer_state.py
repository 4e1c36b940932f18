"""What an optimizer has gathered about the weights, carried over to the weights that are left."""

import copy
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lomt.errors import ArtifactError
from lomt.pruning.plan import PruningPlan

__all__ = ["carry_optimizer"]

_Optimizer = TypeVar("_Optimizer", bound=Optimizer)
_Dims = Mapping[int, tuple[int, ...]]


def carry_optimizer(
    optimizer: _Optimizer, model: nn.Module, smaller: nn.Module, plan: PruningPlan
) -> _Optimizer:
    """Return an optimizer of the smaller model that goes on where the given one stands.

    Everything that is kept for each entry of a weight, such as SGD's momentum or Adam's moments, loses the entries
    that the weight loses; numbers of steps stay. A step of a separable optimizer with the same gradients then moves
    each weight that is left as it would have without the cut. Parameter groups keep their settings; those whose
    parameters are all gone are dropped. Parameters that are not the model's, such as a loss's own, are carried as
    they are. Hooks are not: they know the old weights.

    Args:
        optimizer: Over parameters of ``model``; left as it is.
        model: The model as it was.
        smaller: What applying the plan to it made, trained further or not.
        plan: What went.

    Returns:
        An optimizer of the same class.

    Raises:
        ArtifactError: If the smaller model is not what the plan makes of the model.
        TypeError: If the optimizer keeps something that cannot be cut, neither one number nor one an entry.

    Example:
        >>> import lomt
        >>> net = nn.Sequential(nn.Conv2d(3, 16, 1), nn.ReLU(), nn.Conv2d(16, 2, 1))
        >>> adam = torch.optim.Adam(net.parameters(), lr=0.01)
        >>> net(torch.rand(1, 3, 4, 4)).sum().backward()
        >>> adam.step()
        >>> result = lomt.prune(net, torch.rand(1, 3, 4, 4), channels=0.5)
        >>> carried = carry_optimizer(adam, net, result.model, result.plan)
        >>> carried.state[result.model[0].weight]["exp_avg"].shape
        torch.Size([8, 3, 1, 1])
    """
    names = {parameter: name for name, parameter in model.named_parameters()}
    cuts = _cuts(model, plan)
    left = dict(smaller.named_parameters())
    groups: list[dict[str, Any]] = []
    state: defaultdict[Tensor, Any] = defaultdict(dict)
    for group in optimizer.param_groups:
        kept: list[Tensor] = []
        for parameter in group["params"]:
            name = names.get(parameter)
            successor = parameter if name is None else left.get(name)
            if successor is None:  # its module is gone
                continue
            kept.append(successor)
            if parameter in optimizer.state:
                own = optimizer.state[parameter]
                state[successor] = _carried(name or "", own, parameter, successor, cuts.get(parameter, {}))
        if kept:
            groups.append({**group, "params": kept})
    carried = copy.copy(optimizer)  # its settings, as if unpickled: no constructor has to be called
    carried.defaults = dict(optimizer.defaults)
    carried.param_groups, carried.state = groups, state
    return carried


def _cuts(model: nn.Module, plan: PruningPlan) -> dict[Tensor, _Dims]:
    """Return the kept positions of parameters; a plan may name a shared one by any of its names."""
    named = dict(model.named_parameters(remove_duplicate=False))
    return {named[name]: dims for name, dims in plan.tensors.items() if name in named}


def _carried(
    name: str, state: Mapping[str, Any], parameter: Tensor, successor: Tensor, dims: _Dims
) -> dict[str, Any]:
    carried: dict[str, Any] = {}
    for key, value in state.items():
        if not isinstance(value, Tensor) or value.ndim == 0:
            carried[key] = value.clone() if isinstance(value, Tensor) else copy.copy(value)
        elif value.shape == parameter.shape:
            carried[key] = _like(_sliced(value, dims), successor, name)
        elif not dims:
            carried[key] = value.clone()
        else:
            raise TypeError(
                f"Expected the optimizer to keep one number or {tuple(parameter.shape)} of them for `{name}`, but its "
                f"`{key}` has shape {tuple(value.shape)}. Make a new optimizer for the smaller model."
            )
    return carried


def _sliced(value: Tensor, dims: _Dims) -> Tensor:
    for dim, positions in dims.items():
        value = value.index_select(dim, torch.tensor(positions, dtype=torch.int64, device=value.device))
    return value


def _like(value: Tensor, successor: Tensor, name: str) -> Tensor:
    if value.shape != successor.shape:
        raise ArtifactError(
            f"Expected `{name}` of the smaller model to have shape {tuple(value.shape)}, as the plan says, but got "
            f"{tuple(successor.shape)}: the plan was made for another model."
        )
    return torch.empty_like(successor, dtype=value.dtype, requires_grad=False).copy_(value)
