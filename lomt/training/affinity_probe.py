"""Something measured between the tasks at the end of every epoch, averaged over a training."""

from collections.abc import Callable
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lomt.training.batch_losses import BatchLosses
from lomt.training.checkpoint import TrainingState
from lomt.training.evaluate import Evaluation
from lomt.training.interfaces import Loader

__all__ = ["AffinityProbe"]

Measure = Callable[[Callable[[], dict[str, Tensor]]], Tensor]


class AffinityProbe:
    """Measure how tasks act on each other while they are trained together; training is not changed.

    Args:
        measure: From a function that runs the network on one batch and returns every task's loss, to a matrix
            (tasks, tasks).
        losses: How a batch's losses come about.
        loader: Whose first batches are looked at.
        batches: How many of them after every epoch.
    """

    def __init__(self, measure: Measure, losses: BatchLosses, loader: Loader, batches: int) -> None:
        self._measure, self._losses, self._loader, self._batches = measure, losses, loader, batches
        count = len(losses.tasks)
        self._sum, self._count = torch.zeros(count, count, dtype=torch.float64), 0

    @property
    def mean(self) -> Tensor:
        """The mean over all batches so far, (tasks, tasks) float64."""
        return self._sum / max(self._count, 1)

    def attach(self, optimizer: Optimizer, model: nn.Module) -> None:
        """Nothing is hooked."""

    def before_epoch(self, epoch: int) -> None:
        """Nothing is set."""

    def after_epoch(self, epoch: int, model: nn.Module, validation: Evaluation | None) -> dict[str, Any]:
        """Measure, in evaluation mode so that no statistics move."""
        model.eval()
        for batch in islice(self._loader.epoch(epoch), self._batches):
            self._sum += self._measure(lambda batch=batch: self._losses(model, batch))  # type: ignore[misc]
            self._count += 1
        return {}

    def state(self) -> TrainingState:
        """Return what a checkpoint must hold."""
        return TrainingState({"sum": self._sum}, {"count": self._count})

    def restore(self, state: TrainingState) -> None:
        """Take up a state again."""
        self._sum, self._count = state.tensors["sum"], state.facts["count"]
