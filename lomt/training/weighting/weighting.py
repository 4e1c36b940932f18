"""What every weighting method offers the training loop."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor, nn

__all__ = ["Weighting"]


class Weighting(nn.Module, ABC):
    """Map from what training has seen so far to one coefficient per task.

    The loop multiplies every task's loss by its coefficient, goes backward, and then shows the method the
    losses of the whole batch (summed over micro-batches and processes), so that learnable coefficients get the
    same gradient in every process.
    """

    def begin(self, steps: int) -> None:
        """Hear, once and before a checkpoint is read, how many optimizer steps the training takes."""

    @abstractmethod
    def coefficients(self) -> dict[str, Tensor]:
        """Return every task's coefficient, detached from any graph."""

    @abstractmethod
    def observe(self, losses: Mapping[str, Tensor]) -> None:
        """Take note of a step's losses; learnable methods set their parameters' gradients here."""
