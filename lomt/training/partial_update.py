"""Training that changes some entries of a network and leaves all others as they are, to the last bit."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from lomt.training.checkpoint import TrainingState
from lomt.training.evaluate import Evaluation

__all__ = ["PartialUpdate", "updating_only"]

_NORMS = (nn.modules.batchnorm._NormBase,)


class PartialUpdate:
    """Hold fixed what a mask leaves out, as a part of training; made by `updating_only`.

    A killed training goes on with the same entries: fixed values are those of the model that it is given.

    Args:
        masks: By name of a parameter or buffer, in its shape, which entries may change.
    """

    def __init__(self, masks: Mapping[str, Bool[Tensor, "..."]]) -> None:
        self._masks = masks
        self._partial: list[tuple[nn.Parameter, Tensor, Tensor]] = []
        self._handles: list[RemovableHandle] = []
        self._count = 0

    def attach(self, optimizer: Optimizer, model: nn.Module) -> None:
        """Note the fixed values and hook into gradients, steps and forward passes."""
        parameters = dict(model.named_parameters())
        self._count = sum(int(self._masks[name].sum()) for name in parameters if name in self._masks)
        for name, parameter in parameters.items():
            mask = self._masks.get(name)
            if mask is None or not mask.any() or mask.all():
                continue
            mask = mask.to(parameter.device)
            self._partial.append((parameter, mask, parameter.detach().clone()))
            self._handles.append(parameter.register_hook(partial(_masked, mask)))
        frozen = frozen_norms(model, self._masks)
        self._handles.append(model.register_forward_pre_hook(partial(_set_to_evaluate, frozen)))
        self._handles.append(optimizer.register_step_post_hook(self._after_step))

    def before_epoch(self, epoch: int) -> None:
        """Do nothing: the same entries change in all epochs."""

    def after_epoch(self, epoch: int, model: nn.Module, validation: Evaluation | None) -> dict[str, Any]:
        """Return how many numbers training may change, for the record."""
        return {"updated_parameters": self._count}

    def state(self) -> TrainingState:
        """Return nothing: the fixed values are those of the model that training begins with."""
        return TrainingState({}, {})

    def restore(self, state: TrainingState) -> None:
        """Do nothing."""

    def detach(self) -> None:
        """Take all hooks away."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._partial = [], []

    @torch.no_grad()
    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        # Weight decay moves weights without a gradient.
        for parameter, mask, before in self._partial:
            parameter.copy_(torch.where(mask, parameter, before))


@contextmanager
def updating_only(model: nn.Module, masks: Mapping[str, Bool[Tensor, "..."]]) -> Iterator[PartialUpdate]:
    """Let training inside the context change the masked entries only; give what is yielded to the trainer.

    Parameters of which nothing may change need no gradient and have no place in the optimizer. A norm with running
    statistics of which anything is held fixed uses and keeps its stored statistics; what may change of its scale and
    bias does.

    Args:
        model: Changed only in what needs a gradient, which is put back; construct the trainer inside.
        masks: By name of a parameter or buffer, in its shape, which entries may change; none of those not named.

    Raises:
        ValueError: If a mask is of no tensor of the model or of another shape, or no parameter may change.
    """
    _check(model, masks)
    fixed = [
        parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and not (name in masks and masks[name].any())
    ]
    update = PartialUpdate(masks)
    for parameter in fixed:
        parameter.requires_grad_(False)
    try:
        yield update
    finally:
        update.detach()
        for parameter in fixed:
            parameter.requires_grad_(True)


def frozen_norms(model: nn.Module, masks: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Return the norms with running statistics of which not every entry may change, by dotted path."""
    found = []
    for path, module in model.named_modules():
        if isinstance(module, _NORMS) and module.running_mean is not None:
            own = [
                f"{path}.{name}" if path else name
                for name in ("weight", "bias", "running_mean", "running_var")
            ]
            tensors = [name for name in own if getattr(module, name.rpartition(".")[2]) is not None]
            if not all(name in masks and bool(masks[name].all()) for name in tensors):
                found.append(path)
    return tuple(found)


def _check(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    state = model.state_dict()
    for name, mask in masks.items():
        if name not in state or state[name].shape != mask.shape:
            got = tuple(state[name].shape) if name in state else "no tensor of that name"
            raise ValueError(
                f"Expected the masks to fit the model, but that of `{name}` has shape {tuple(mask.shape)} and the "
                f"model {got}."
            )
    if not any(name in masks and bool(masks[name].any()) for name, _ in model.named_parameters()):
        raise ValueError("Expected the masks to let some parameter change, but they hold all of them fixed.")


def _masked(mask: Tensor, gradient: Tensor) -> Tensor:
    return gradient * mask


def _set_to_evaluate(names: tuple[str, ...], model: nn.Module, inputs: Any) -> None:
    # Looked up each time: the trainer sets modes, and may put synchronised norms in their place.
    for name in names:
        model.get_submodule(name).eval()
