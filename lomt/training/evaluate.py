"""Losses and metrics of any predictor over a whole set."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from lomt.tasks import MetricSum, Task
from lomt.training.progress import Progress, SilentProgress

__all__ = ["Evaluation", "evaluate"]

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class Evaluation:
    """What a set of samples says of a predictor.

    Args:
        metrics: Value by task and metric name.
        losses: Mean loss by task.
    """

    metrics: dict[str, dict[str, float]]
    losses: dict[str, float]

    @property
    def loss(self) -> float:
        """The sum of the tasks' losses."""
        return sum(self.losses.values())


@torch.no_grad()
def evaluate(
    predict: Callable[[Tensor], Mapping[str, Tensor]],
    batches: Iterable[Batch],
    tasks: Mapping[str, Task],
    *,
    targets: Mapping[str, str] | None = None,
    accelerator: Accelerator | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Return losses and metrics over all batches and all processes.

    Args:
        predict: From images, (batch, 3, height, width) in 0 to 1, to raw predictions by task.
        batches: Of images and targets; every process gets its own share.
        tasks: Whose predictions are judged, by name.
        targets: Name of each task's target in the batches; the task's own name where absent.
        accelerator: Its device and processes are used; CPU and one process without it.
        progress: Told of every batch.
    """
    targets = {name: (targets or {}).get(name, name) for name in tasks}
    progress = progress or SilentProgress()
    device = accelerator.device if accelerator else torch.device("cpu")
    sums = {name: MetricSum(task) for name, task in tasks.items()}
    losses = torch.zeros(len(tasks), 2, dtype=torch.float64, device=device)
    for batch in batches:
        predictions = predict(batch["image"].to(device, non_blocking=True))
        for row, (name, task) in enumerate(tasks.items()):
            target = batch[targets[name]].to(device, non_blocking=True)
            prediction = predictions[name].float()
            sums[name].update(prediction, target)
            losses[row, 0] += task.loss(prediction, target).double()
            losses[row, 1] += task.loss.count(target).double()
        progress.advance()
    statistics = {name: _summed(total.statistics.to(device), accelerator) for name, total in sums.items()}
    losses = _summed(losses, accelerator)
    return Evaluation(
        metrics={name: task.metrics.compute(statistics[name]) for name, task in tasks.items()},
        losses={
            name: float(total / count.clamp(min=1.0))
            for name, (total, count) in zip(tasks, losses, strict=True)
        },
    )


def _summed(values: Tensor, accelerator: Accelerator | None) -> Tensor:
    if accelerator is None or accelerator.num_processes == 1:
        return values
    summed: Tensor = accelerator.reduce(values, reduction="sum")
    return summed
