r"""Affinities read off gradients while a network trains on all tasks: lookahead and cosine.

Lookahead (TAG): what a step of size :math:`\eta` on task :math:`i` alone does to task :math:`j` on the same batch,

.. math:: Z_{i \to j} = 1 - \frac{L_j(\theta - \eta \nabla_\theta L_i)}{L_j(\theta)}

with the shared weights :math:`\theta`. Cosine: the angle between the tasks' gradients in the shared weights. Both
are means over batches and moments of the training.

References:
    Fifty et al., "Efficiently Identifying Task Groupings for Multi-Task Learning", 2021,
    https://arxiv.org/abs/2109.04617, equation 2.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float64
from torch import Tensor, nn

__all__ = ["MEASURES", "gradient_cosine", "lookahead"]

BatchLosses = Callable[[], Mapping[str, Tensor]]
"""Runs the network on one batch and returns every task's mean loss with its graph."""


def lookahead(
    losses: BatchLosses, parameters: Sequence[nn.Parameter], learning_rate: float
) -> Float64[Tensor, "tasks tasks"]:
    """Return each row's gain from a step on each column's task; the weights are put back bit for bit.

    Args:
        losses: Of one batch.
        parameters: The shared ones.
        learning_rate: Of the trial step.
    """
    before, gradients = _gradients(losses, parameters)
    start = torch.stack([loss.detach() for loss in before.values()]).double().cpu()
    kept = [parameter.detach().clone() for parameter in parameters]
    columns = []
    with torch.no_grad():
        for rows in gradients:
            for parameter, own, gradient in zip(parameters, kept, rows, strict=True):
                if gradient is not None:
                    parameter.copy_(own - learning_rate * gradient)
            after = torch.stack(list(losses().values())).double().cpu()
            columns.append(1 - after / start)
            for parameter, own in zip(parameters, kept, strict=True):
                parameter.copy_(own)
    return torch.stack(columns, dim=1)


def gradient_cosine(
    losses: BatchLosses, parameters: Sequence[nn.Parameter], learning_rate: float = 0.0
) -> Float64[Tensor, "tasks tasks"]:
    """Return the cosines between the tasks' gradients.

    Args:
        losses: Of one batch.
        parameters: The shared ones.
        learning_rate: Not used.
    """
    _, gradients = _gradients(losses, parameters)
    count = len(gradients)
    products = torch.zeros(count, count, dtype=torch.float64)
    for index in range(len(parameters)):
        column = [gradient[index] for gradient in gradients]
        own = [torch.zeros_like(parameters[index]) if g is None else g for g in column]
        rows = torch.stack(own).flatten(1).double()
        products += (rows @ rows.T).cpu()
    lengths = products.diag().clamp_min(1e-300).sqrt()
    return products / lengths / lengths[:, None]


MEASURES: Mapping[
    str, Callable[[BatchLosses, Sequence[nn.Parameter], float], Float64[Tensor, "tasks tasks"]]
] = {"lookahead": lookahead, "cosine": gradient_cosine}


def _gradients(
    losses: BatchLosses, parameters: Sequence[nn.Parameter]
) -> tuple[Mapping[str, Tensor], list[tuple[Tensor | None, ...]]]:
    with torch.enable_grad():
        found = losses()
        gradients: list[tuple[Tensor | None, ...]] = [
            torch.autograd.grad(loss, list(parameters), retain_graph=True, allow_unused=True)
            for loss in found.values()
        ]
    return found, gradients
