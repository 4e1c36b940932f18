"""The running sum of a task's metric statistics over batches."""

import torch
from jaxtyping import Float64
from torch import Tensor

from lomt.tasks.task import Task

__all__ = ["MetricSum"]


class MetricSum:
    """Add up a task's metric statistics.

    In a distributed evaluation reduce ``statistics`` by a sum and hand it to ``task.metrics.compute``.

    Args:
        task: Whose metrics.
        device: Where the sum lives before the first update; it then follows the predictions.

    Example:
        >>> import torch
        >>> from lomt.tasks import make_task
        >>> total = MetricSum(make_task("scene", "classification", 2))
        >>> total.update(torch.tensor([[3.0, 1.0], [0.0, 2.0]]), torch.tensor([0, 0]))
        >>> total.compute()["accuracy"]
        0.5
    """

    def __init__(self, task: Task, device: torch.device | str = "cpu") -> None:
        self.task = task
        self._statistics = torch.zeros(task.metrics.length, dtype=torch.float64, device=device)

    @property
    def statistics(self) -> Float64[Tensor, " statistics"]:
        """The sum so far; zeros before the first update."""
        return self._statistics

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add a batch.

        Args:
            prediction: Raw output of the task.
            target: Its target.

        Raises:
            ValueError: A shape does not fit, or a label is out of range.
            TypeError: A dtype does not fit.
        """
        added = self.task.metrics.statistics(prediction, target)
        self._statistics = self._statistics.to(added.device) + added

    def compute(self) -> dict[str, float]:
        """Turn the sum so far into the task's numbers, the primary metric first."""
        return self.task.metrics.compute(self._statistics)
