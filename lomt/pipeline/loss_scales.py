"""Factors that bring every task's loss to a common scale before sparsity is weighed against it."""

from collections.abc import Mapping
from itertools import islice

from torch import Tensor, nn

from lomt.pipeline.context import Context
from lomt.tasks import Task
from lomt.training import evaluate

__all__ = ["loss_scales"]

_BATCHES = 16


def loss_scales(context: Context, model: nn.Module, tasks: Mapping[str, Task]) -> dict[str, float]:
    """Return the factors that bring the tasks' losses to 1 at the start.

    Where targets are the original network's predictions, the start may already agree with them: then it brings the loss
    of the best constant answer to 1.

    Group lasso trades the loss against the norms: without a common scale one lambda prunes a task whose loss is
    a small number, such as a cosine, much harder than one with a large cross entropy.
    """
    if not context.recipe.locate.normalise_loss:
        return dict.fromkeys(tasks, 1.0)
    parts = context.parts
    batches = islice(parts.loader("train", context.recipe.locate.train).epoch(0), _BATCHES)
    model.eval()

    def predict(images: Tensor) -> Mapping[str, Tensor]:
        """Answer as the network does at the start, or always the same."""
        if context.recipe.data.targets == "original":
            return {
                name: _everywhere(parts.output_biases[name], task, images) for name, task in tasks.items()
            }
        found: Mapping[str, Tensor] = model(parts.prepared(images))
        return found

    losses = evaluate(predict, batches, tasks, targets=parts.targets).losses
    return {task: 1.0 / max(loss, 1e-6) for task, loss in losses.items()}


def _everywhere(answer: Tensor, task: Task, images: Tensor) -> Tensor:
    """Return one answer for all images, and all of their pixels."""
    if not task.is_dense:
        return answer.expand(len(images), -1)
    return answer[:, None, None].expand(len(images), -1, *images.shape[-2:])
