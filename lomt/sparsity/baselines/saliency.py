"""How much single weights matter: their size, or what a loss would change without them."""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lomt.errors import ScoreError
from lomt.tasks.loss_gradients import Losses, LossValue, loss_gradients

__all__ = ["loss_saliency", "magnitudes"]

Scores = dict[str, Float[Tensor, "..."]]


def magnitudes(weights: Mapping[str, nn.Parameter]) -> Scores:
    """Return the absolute values of weights.

    Args:
        weights: By name.
    """
    return {name: weight.detach().abs() for name, weight in weights.items()}


def loss_saliency(
    model: nn.Module,
    weights: Mapping[str, nn.Parameter],
    losses: Losses,
    split: Callable[[LossValue], Mapping[str, Tensor]],
    *,
    power: int = 1,
) -> dict[str, Scores]:
    r"""Return what each loss would change without a weight, to first order.

    .. math:: s^t_i = \frac{1}{B} \sum_{b=1}^{B} \Big| \frac{\partial L^t_b}{\partial w_i} \Big| \, |w_i|^p

    With :math:`p = 1` this is SNIP's connection sensitivity: the derivative with respect to a mask that multiplies
    the weight. With :math:`p = 2` it is what DiSparse takes for trained networks on Taskonomy. The model is in
    evaluation mode: renew batch norm statistics beforehand where they are not those of the weights, as in a network
    that has not been trained yet.

    Args:
        model: The network; left as it was.
        weights: Some of its parameters, by name.
        losses: The losses of some batches.
        split: `total_loss` for the sum over tasks, `task_losses` for one result a task.
        power: :math:`p`.

    Returns:
        By loss, then by name; weights that a loss does not depend on are absent from it.

    Raises:
        ScoreError: If a loss is not one to differentiate, there is no batch, or a gradient is not finite.

    References:
        Lee et al., "SNIP: Single-shot Network Pruning based on Connection Sensitivity", 2019,
        https://arxiv.org/abs/1810.02340, equation 5.
    """
    totals: dict[str, Scores] = {}

    def take(loss: str, gradients: Mapping[str, Tensor]) -> None:
        """Add up one loss of one batch."""
        sums = totals.setdefault(loss, {})
        for name, gradient in gradients.items():
            if not gradient.isfinite().all():
                raise ScoreError(
                    f"Expected the gradient of `{name}` to be finite, but some of it is infinite or not a number."
                )
            own = gradient.detach().abs()
            sums[name] = sums[name] + own if name in sums else own

    batches = loss_gradients(model, weights, losses, split, take)
    with torch.no_grad():
        return {
            loss: {name: total * weights[name].abs() ** power / batches for name, total in sums.items()}
            for loss, sums in totals.items()
        }
