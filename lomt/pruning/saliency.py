"""First-order saliency: how much a loss would change without a channel, loss by loss."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lomt.pruning.channel_sums import (
    Place,
    ScoreError,
    float_tensors,
    sum_by_channel,
    sum_by_position,
    to_float,
)
from lomt.pruning.interfaces import Prunable

__all__ = ["LossValue", "Losses", "gradient_saliency", "task_losses", "total_loss"]

LossValue = Tensor | Mapping[str, Tensor]

Losses = Callable[[nn.Module], Iterable[LossValue]] | Iterable[LossValue]
"""The losses of some batches: for each batch a scalar, or one scalar a task.

A function gets the model and is the better form: it can be asked twice. A plain iterable should compute each loss
when asked for it, as a generator does, so that one graph at a time is in memory. A batch's losses may share a graph,
different batches must not. The model is in evaluation mode while batches run.
"""

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
    batches = 0
    with _left_as_it_was(model, parameters.values()):
        for value in _each(losses, model):
            batches += 1
            named = split(value)
            for position, (name, loss) in enumerate(named.items(), start=1):
                gradients = _gradients(name, loss, parameters, retain_graph=position < len(named))
                _add(totals.setdefault(name, {}), parameters, gradients, places)
    if not batches:
        raise ScoreError(
            "Expected `losses` to give at least one batch, but got none. "
            "A generator gives its batches once: a function of the model can be asked again."
        )
    return {name: _by_channel(structure, sums, batches) for name, sums in totals.items()}


def total_loss(value: LossValue) -> dict[str, Tensor]:
    """Return one loss named ``"all"``, the sum where there is one a task."""
    if isinstance(value, Tensor):
        return {"all": value}
    return {"all": torch.stack(list(value.values())).sum()}


def task_losses(value: LossValue) -> Mapping[str, Tensor]:
    """Return the losses by task.

    Raises:
        ScoreError: If there is but one loss without a name, or none.
    """
    if isinstance(value, Tensor) or not value:
        raise ScoreError(
            "Expected `losses` to give a dictionary of task name → loss for each batch, "
            f"but got {'one tensor' if isinstance(value, Tensor) else 'an empty one'}."
        )
    return value


def _each(losses: Losses, model: nn.Module) -> Iterator[LossValue]:
    model.eval()
    batches = iter(losses(model) if callable(losses) else losses)
    while True:
        # Some models cache tensors in evaluation mode, which would hold on to a graph that is gone.
        model.train()
        model.eval()
        try:
            value = next(batches)
        except StopIteration:
            return
        yield value


@contextmanager
def _left_as_it_was(model: nn.Module, parameters: Iterable[Tensor]) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    frozen = [parameter for parameter in parameters if not parameter.requires_grad]
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        model.train()
        for module, mode in modes:
            module.training = mode
        for parameter in frozen:
            parameter.requires_grad_(False)


def _gradients(
    name: str, loss: Tensor, parameters: Mapping[str, Tensor], retain_graph: bool
) -> Sequence[Tensor | None]:
    if loss.numel() != 1:
        raise ScoreError(f"Expected loss `{name}` to be a scalar, but got shape {tuple(loss.shape)}.")
    if not loss.requires_grad:
        raise ScoreError(
            f"Expected loss `{name}` to depend on the model's parameters, but it has no gradient. "
            "Compute it without torch.no_grad() and without detaching the outputs."
        )
    if not loss.isfinite():
        raise ScoreError(f"Expected loss `{name}` to be finite, but got {loss.item()}.")
    return torch.autograd.grad(
        loss.sum(), list(parameters.values()), retain_graph=retain_graph, allow_unused=True
    )


def _add(
    totals: dict[Place, Tensor],
    parameters: Mapping[str, Tensor],
    gradients: Sequence[Tensor | None],
    places: Iterable[Place],
) -> None:
    dims: dict[str, list[int]] = {}
    for name, dim in places:
        dims.setdefault(name, []).append(dim)
    for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
        if gradient is None:
            continue
        products = (to_float(parameter) * to_float(gradient)).abs()
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
