"""What training needs from others: batches, and whatever changes weights beside the loss."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn
from torch.optim import Optimizer

from lomt.training.checkpoint import TrainingState
from lomt.training.evaluate import Evaluation

__all__ = ["Batch", "Loader", "Regularizer"]

Batch = Mapping[str, Tensor]


@runtime_checkable
class Loader(Protocol):
    """Batches of one epoch, the same whenever asked for the same epoch."""

    wait_s: float

    @property
    def batches_per_epoch(self) -> int:
        """How many batches an epoch has."""

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from the ``start``-th on."""


@runtime_checkable
class Regularizer(Protocol):
    """Something that changes weights beside the loss, such as a proximal step."""

    def attach(self, optimizer: Optimizer, model: nn.Module) -> None:
        """Hook into the optimizer's steps."""

    def before_epoch(self, epoch: int) -> None:
        """Set strengths for the epoch to come."""

    def after_epoch(self, epoch: int, model: nn.Module, validation: Evaluation | None) -> dict[str, Any]:
        """Return what the epoch's record should say; the key ``stop`` with a reason ends training."""

    def state(self) -> TrainingState:
        """Return what a checkpoint must hold."""

    def restore(self, state: TrainingState) -> None:
        """Take up a state again."""
