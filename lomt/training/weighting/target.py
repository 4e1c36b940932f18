"""What the methods with one target task have in common."""

from collections.abc import Mapping

import torch
from torch import Tensor

from lomt.errors import UnknownNameError
from lomt.training.weighting.weighting import Weighting

__all__ = ["TargetWeighting", "check_target"]


class TargetWeighting(Weighting):
    """Weigh auxiliary tasks by factors that change, the target by its constant weight.

    Args:
        weights: Weight by task name.
        target: The task that counts in the end.

    Raises:
        UnknownNameError: If there is no such task.
    """

    def __init__(self, weights: Mapping[str, float], target: str) -> None:
        super().__init__()
        check_target(target, weights)
        self._weights, self._target = dict(weights), target

    @property
    def auxiliaries(self) -> tuple[str, ...]:
        """All tasks but the target."""
        return tuple(task for task in self._weights if task != self._target)

    def factor(self, task: str) -> float:
        """Return what an auxiliary task's weight is multiplied by now; 0 leaves the task out."""
        raise NotImplementedError

    def coefficients(self) -> dict[str, Tensor]:
        """Return the target's weight and the auxiliaries' present ones."""
        return {
            task: torch.tensor(weight * (1.0 if task == self._target else self.factor(task)))
            for task, weight in self._weights.items()
        }

    def observe(self, losses: Mapping[str, Tensor]) -> None:
        """Nothing is learned."""

    def active(self) -> frozenset[str]:
        """Return the target and the auxiliaries with a factor."""
        return frozenset(self._weights) - self.retired()

    def retired(self) -> frozenset[str]:
        """Return the auxiliaries whose factor is zero: it stays so."""
        return frozenset(task for task in self.auxiliaries if self.factor(task) == 0)


def check_target(target: str, weights: Mapping[str, float]) -> None:
    """Raise UnknownNameError unless the target is a task."""
    if target not in weights:
        raise UnknownNameError("target task", target, weights)
