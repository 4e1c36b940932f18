"""Keeping groups at zero for good: weights, gradients and whatever the optimizer has gathered for them."""

from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from lomt.sparsity.coupled_groups import CoupledGroups
from lomt.sparsity.proximal_penalty import unwrapped

__all__ = ["GroupMask"]


class GroupMask:
    """Groups that stay zero, whatever gradient and weight decay would do to them.

    Gradients are masked before every optimizer step. As weights and moments are zero as well, no optimizer of torch
    moves them.

    Args:
        groups: The groups; none is masked at first.
    """

    def __init__(self, groups: CoupledGroups) -> None:
        self._groups = groups
        self._is_dead = torch.zeros(groups.count, dtype=torch.bool)
        self._parts: list[tuple[Tensor, Tensor]] = []
        self._handle: RemovableHandle | None = None

    @property
    def is_dead(self) -> Bool[Tensor, " groups"]:
        """Which groups stay zero."""
        return self._is_dead

    @torch.no_grad()
    def add(self, is_dead: Bool[Tensor, " groups"], optimizer: Any = None) -> None:
        """Set more groups to zero and keep them there.

        Args:
            is_dead: Which; those masked before stay so.
            optimizer: What it has gathered for them becomes zero as well.
        """
        self._is_dead = self._is_dead | is_dead.cpu()
        if not bool(self._is_dead.any()):
            return
        alive = (~self._is_dead).to(self._groups.device)
        masks = self._groups.spread(alive.float())
        self._parts = []
        for own, mask in zip(self._groups.tensors, masks, strict=True):
            if bool(mask.all()):
                continue
            factor = mask.to(own.parameter.dtype)
            own.parameter.mul_(factor)
            self._parts.append((own.parameter, factor))
            if optimizer is not None:
                for value in unwrapped(optimizer).state.get(own.parameter, {}).values():
                    if isinstance(value, Tensor) and value.shape == own.parameter.shape:
                        value.mul_(mask.to(value.dtype))

    def attach(self, optimizer: Any) -> None:
        """Mask gradients before each of the optimizer's steps from now on."""
        self._handle = unwrapped(optimizer).register_step_pre_hook(self._before_step)

    def detach(self) -> None:
        """Mask no further gradients; does nothing when not attached."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    @torch.no_grad()
    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for parameter, factor in self._parts:
            if parameter.grad is not None:
                parameter.grad.mul_(factor)
