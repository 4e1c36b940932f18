"""Gradients of losses with respect to parameters, batch by batch and loss by loss; the model stays as it was."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lomt.errors import ScoreError
from lomt.module_modes import modes_kept

__all__ = ["LossValue", "Losses", "loss_gradients", "task_losses", "total_loss"]

LossValue = Tensor | Mapping[str, Tensor]

Losses = Callable[[nn.Module], Iterable[LossValue]] | Iterable[LossValue]
"""The losses of some batches: for each batch a scalar, or one scalar a task.

A function gets the model and is the better form: it can be asked twice. A plain iterable should compute each loss
when asked for it, as a generator does, so that one graph at a time is in memory. A batch's losses may share a graph,
different batches must not. The model is in evaluation mode while batches run.
"""


def loss_gradients(
    model: nn.Module,
    parameters: Mapping[str, Tensor],
    losses: Losses,
    split: Callable[[LossValue], Mapping[str, Tensor]],
    take: Callable[[str, Mapping[str, Tensor]], None],
) -> int:
    """Take the gradients of every loss of every batch, one backward pass a loss.

    Frozen parameters have gradients like all others. The model keeps its gradients, modes and statistics.

    Args:
        model: The network; in evaluation mode meanwhile.
        parameters: Some of its parameters, by name.
        losses: The losses of some batches.
        split: Makes named losses from what one batch gives: `total_loss` or `task_losses`.
        take: Called with the name of a loss and its gradients by parameter; those that the loss does not depend on
            are absent.

    Returns:
        The number of batches.

    Raises:
        ScoreError: If there is no batch, or a loss is not a finite scalar that depends on the model.
    """
    batches = 0
    with _left_as_it_was(model, parameters.values()):
        for value in _each(losses, model):
            batches += 1
            named = split(value)
            for position, (name, loss) in enumerate(named.items(), start=1):
                found = _gradients(name, loss, parameters, retain_graph=position < len(named))
                pairs = zip(parameters, found, strict=True)
                take(name, {parameter: own for parameter, own in pairs if own is not None})
    if not batches:
        raise ScoreError(
            "Expected `losses` to give at least one batch, but got none. "
            "A generator gives its batches once: a function of the model can be asked again."
        )
    return batches


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
    frozen = [parameter for parameter in parameters if not parameter.requires_grad]
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        with torch.inference_mode(False), torch.enable_grad(), modes_kept(model):
            yield
    finally:
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
