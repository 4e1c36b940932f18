"""First-order saliency: how much a loss would change without a channel, loss by loss."""

from collections.abc import Callable, Iterable, Mapping

from torch import Tensor, nn

from lomt.errors import ScoreError
from lomt.pruning.channel_sums import Place, float_tensors, sum_by_channel, sum_by_position, to_float
from lomt.pruning.interfaces import Prunable
from lomt.tasks.loss_gradients import Losses, LossValue, loss_gradients

__all__ = ["gradient_saliency"]

_ROLES = ("producer", "consumer", "scale")


def gradient_saliency(
    structure: Prunable,
    model: nn.Module,
    losses: Losses,
    split: Callable[[LossValue], Mapping[str, Tensor]],
) -> dict[str, dict[str, Tensor]]:
    r"""Estimate for every channel how much each loss would change without it.

    .. math:: s^t_c = \frac{1}{B} \sum_{b=1}^{B} \sum_{w \in g_c}
        \Big| w \, \frac{\partial L^t_b}{\partial w} \Big|

    where :math:`g_c` are all parameters' slices of channel :math:`c` and :math:`L^t_b` is loss :math:`t` of batch
    :math:`b`. Frozen parameters count like all others. The model keeps its gradients, modes and statistics.

    Args:
        structure: What was traced from ``model``.
        model: The network.
        losses: The losses of some batches.
        split: Makes named losses from what one batch gives: `total_loss` or `task_losses`.

    Returns:
        By loss, then by name of the coupled channels, float64 vectors (count,). Coupled channels that a loss does
        not depend on are absent from it.

    Raises:
        ScoreError: If the model is not the one that was traced, there is no batch, a loss is not a scalar that
            depends on the model, or a weight, a loss or a gradient is infinite or not a number.
    """
    tensors = float_tensors(structure, model)
    parameters = {name: tensor for name, tensor in tensors.items() if isinstance(tensor, nn.Parameter)}
    places = {(part.tensor, part.dim) for coupled in structure.prunable for part in coupled.slices}
    totals: dict[str, dict[Place, Tensor]] = {}

    def take(name: str, gradients: Mapping[str, Tensor]) -> None:
        """Add up one loss of one batch."""
        _add(totals.setdefault(name, {}), parameters, gradients, places)

    batches = loss_gradients(model, parameters, losses, split, take)
    return {name: _by_channel(structure, sums, batches) for name, sums in totals.items()}


def _add(
    totals: dict[Place, Tensor],
    parameters: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor],
    places: Iterable[Place],
) -> None:
    dims: dict[str, list[int]] = {}
    for name, dim in places:
        dims.setdefault(name, []).append(dim)
    for name, gradient in gradients.items():
        products = (to_float(parameters[name]) * to_float(gradient)).abs()
        for dim in dims[name]:
            sums = sum_by_position(products, dim)
            if not sums.isfinite().all():
                raise ScoreError(
                    f"Expected the gradient of `{name}` to be finite, but some of it is infinite or not a number."
                )
            totals[name, dim] = totals[name, dim] + sums if (name, dim) in totals else sums


def _by_channel(structure: Prunable, totals: Mapping[Place, Tensor], batches: int) -> dict[str, Tensor]:
    return {
        coupled.name: sum_by_channel(coupled, totals, _ROLES) / batches
        for coupled in structure.prunable
        if any((part.tensor, part.dim) in totals for part in coupled.slices)
    }
