"""Keep at zero what is zero: training that heals a sparse network without filling it again."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lomt.training.checkpoint import TrainingState
from lomt.training.evaluate import Evaluation

__all__ = ["FixedZeros"]


class FixedZeros:
    """Set back to zero, after every optimizer step, the weights that are zero when training begins.

    A killed training goes on with the same zeros: they are those of the model that it is given, not of its
    checkpoint. The optimizer's moments of these weights do not matter, as the step that they make is undone.

    Args:
        names: Parameters that may hold such weights; None for all of two dimensions or more.
    """

    def __init__(self, names: Iterable[str] | None = None) -> None:
        self._names = None if names is None else frozenset(names)
        self._zeros: list[tuple[nn.Parameter, Tensor]] = []

    def attach(self, optimizer: Optimizer, model: nn.Module) -> None:
        """Note what is zero, and hook into the optimizer's steps."""
        self._zeros = [
            (parameter, zero)
            for name, parameter in model.named_parameters()
            if (parameter.ndim > 1 if self._names is None else name in self._names)
            and bool((zero := parameter.detach() == 0).any())
        ]
        optimizer.register_step_post_hook(self._after_step)

    def before_epoch(self, epoch: int) -> None:
        """Do nothing: zeros stay the same in all epochs."""

    def after_epoch(self, epoch: int, model: nn.Module, validation: Evaluation | None) -> dict[str, Any]:
        """Return how many weights are held at zero, for the record."""
        return {"fixed_zeros": sum(int(zero.sum()) for _, zero in self._zeros)}

    def state(self) -> TrainingState:
        """Return nothing: the zeros are those of the model that training begins with."""
        return TrainingState({}, {})

    def restore(self, state: TrainingState) -> None:
        """Do nothing."""

    @torch.no_grad()
    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for parameter, zero in self._zeros:
            parameter.masked_fill_(zero, 0)
