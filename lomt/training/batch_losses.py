"""Every task's mean loss on one batch, outside the training loop."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from lomt.tasks import Task

__all__ = ["BatchLosses"]


@dataclass(frozen=True)
class BatchLosses:
    """The map from a network and a batch to losses by task.

    Args:
        tasks: By name.
        targets: Name of each task's target in the batches; the task's own name where absent.
        prepare: From images in 0 to 1 to what the network takes, on its device.
    """

    tasks: Mapping[str, Task]
    targets: Mapping[str, str] = field(default_factory=dict)
    prepare: Callable[[Tensor], Tensor] | None = None

    def __call__(self, model: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the network and return each task's mean loss over the labelled entries, with its graph.

        Args:
            model: In the mode in which it is to run.
            batch: Images in 0 to 1 and targets.
        """
        images = self.prepare(batch["image"]) if self.prepare is not None else batch["image"]
        predictions = model(images)
        losses = {}
        for name, task in self.tasks.items():
            target = batch[self.targets.get(name, name)].to(images.device)
            count = task.loss.count(target).clamp_min(1.0)
            losses[name] = task.loss(predictions[name].float(), target) / count
        return losses
