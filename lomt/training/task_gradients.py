"""Every task's own gradient in the shared weights, summed over micro-batches and processes."""

from collections.abc import Mapping, Sequence

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor, nn

from lomt.training.aggregation import Aggregator
from lomt.training.own_parts import decoder_of

__all__ = ["TaskGradients"]


class TaskGradients:
    """The Jacobian of the tasks' losses in the shared weights, one exact backward pass a task.

    Tasks that branch off at different depths have zeros where they do not reach. A task's own decoder gets the ordinary
    gradient of its weighted loss.

    Args:
        model: The network.
        tasks: Names, in the order of the rows.
    """

    def __init__(self, model: nn.Module, tasks: Sequence[str]) -> None:
        self._tasks = tuple(tasks)
        decoders = {task: decoder_of(model, task) for task in tasks}
        self._own = {
            task: [p for p in decoder.parameters() if p.requires_grad] if decoder is not None else []
            for task, decoder in decoders.items()
        }
        own = {parameter for parameters in self._own.values() for parameter in parameters}
        self._shared = [p for p in model.parameters() if p.requires_grad and p not in own]
        size = sum(parameter.numel() for parameter in self._shared)
        device = self._shared[0].device if self._shared else torch.device("cpu")
        self.rows: Float[Tensor, "tasks weights"] = torch.zeros(len(self._tasks), size, device=device)
        """Gradients of the losses as they came, without coefficients."""

    def add(self, losses: Mapping[str, Tensor], coefficients: Mapping[str, Tensor]) -> None:
        """Go backward once for each task.

        Args:
            losses: Of a micro-batch, with their graph; tasks left out add nothing.
            coefficients: By task.
        """
        for row, task in enumerate(self._tasks):
            if task not in losses:
                continue
            parameters = [*self._shared, *self._own[task]]
            gradients = torch.autograd.grad(losses[task], parameters, retain_graph=True, allow_unused=True)
            start = 0
            for parameter, gradient in zip(self._shared, gradients, strict=False):
                count = parameter.numel()
                if gradient is not None:
                    self.rows[row, start : start + count] += gradient.flatten()
                start += count
            for parameter, gradient in zip(self._own[task], gradients[len(self._shared) :], strict=True):
                if gradient is not None:
                    weighed = coefficients[task].to(gradient) * gradient
                    parameter.grad = weighed if parameter.grad is None else parameter.grad + weighed

    def reduce(self, engine: Accelerator) -> None:
        """Sum over processes, whose losses are shares of one mean."""
        if engine.num_processes == 1:
            return
        self.rows = engine.reduce(self.rows, reduction="sum")
        for parameters in self._own.values():
            for parameter in parameters:
                own = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
                parameter.grad = engine.reduce(own, reduction="sum")

    def norms(self) -> dict[str, Tensor]:
        """Return the length of each task's gradient in the shared weights."""
        return dict(zip(self._tasks, self.rows.norm(dim=1), strict=True))

    def write(self, coefficients: Mapping[str, Tensor], aggregator: Aggregator | None, step: int) -> None:
        """Set the shared weights' gradients: the weighted rows aggregated, or summed up.

        Args:
            coefficients: By task.
            aggregator: From weighted rows to one; their sum without it. Rows of zeros, such as those of tasks that are
                left out, do not take part.
            step: Of the training.
        """
        factors = torch.stack([coefficients[task].to(self.rows) for task in self._tasks])
        weighed = factors[:, None] * self.rows
        total = weighed.sum(0) if aggregator is None else aggregator(weighed, step)
        start = 0
        for parameter in self._shared:
            count = parameter.numel()
            piece = total[start : start + count].view(parameter.shape)
            parameter.grad = torch.empty_like(parameter).copy_(piece)
            start += count
