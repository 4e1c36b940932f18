"""What every weighting method offers the training loop."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from lomt.training.batch_losses import BatchLosses
from lomt.training.evaluate import Evaluation
from lomt.training.interfaces import Loader

__all__ = ["Moment", "TrainingView", "Weighting"]


@dataclass(frozen=True)
class Moment:
    """Where a training is before a step.

    Args:
        step: Optimizer steps done.
        epoch: Epochs done, with the fraction of the one under way.
        share: Of the whole training, 0 to 1.
    """

    step: int
    epoch: float
    share: float


@dataclass(frozen=True)
class TrainingView:
    """What a method that moves weights itself may use of a training.

    Args:
        model: The network that is trained.
        optimizer: Of its parameters.
        losses: From the network and a batch to every task's mean loss.
        held_out: Validation batches, or training batches where there are none.
        epochs: Of the whole training.
        mean: Over processes.
    """

    model: nn.Module
    optimizer: Optimizer
    losses: BatchLosses
    held_out: Loader
    epochs: int
    mean: Callable[[Tensor], Tensor]


class Weighting(nn.Module, ABC):
    """Map from what training has seen so far to one coefficient per task.

    The loop multiplies every task's loss by its coefficient, goes backward, and then shows the method the
    losses of the whole batch (summed over micro-batches and processes), so that learnable coefficients get the
    same gradient in every process. What a method has gathered it keeps in parameters and buffers; the checkpoint
    holds them.
    """

    wants_gradient_norms = False
    """Whether the loop is to measure every task's gradient (one backward pass a task) for `observe_norms`."""

    def begin(self, steps: int) -> None:
        """Hear, once and before a checkpoint is read, how many optimizer steps the training takes."""

    @abstractmethod
    def coefficients(self) -> dict[str, Tensor]:
        """Return every task's coefficient, detached from any graph."""

    @abstractmethod
    def observe(self, losses: Mapping[str, Tensor]) -> None:
        """Take note of a step's losses; learnable methods set their parameters' gradients here."""

    def observe_norms(self, norms: Mapping[str, Tensor], losses: Mapping[str, Tensor]) -> None:
        """Take note of a step's losses and of the lengths of their gradients in the shared weights."""

    def attach(self, training: TrainingView) -> None:
        """Look at the training before it begins."""

    def before_epoch(self, epoch: int) -> None:
        """Prepare an epoch that begins at its first batch."""

    def before_step(self, moment: Moment) -> None:
        """Take note of the time."""

    def after_epoch(self, epoch: int) -> dict[str, Any]:
        """Change weights if need be, before validation; return what the epoch's record should say."""
        return {}

    def judge(self, validation: Evaluation | None) -> None:
        """Take note of an epoch's validation."""

    def active(self) -> frozenset[str] | None:
        """Return the tasks whose forward and backward passes the next step needs; None for all."""
        return None

    def retired(self) -> frozenset[str]:
        """Return the tasks that no later step needs; their decoders and what the optimizer holds of them go."""
        return frozenset()
