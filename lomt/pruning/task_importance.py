"""Which channels matter to which task: one saliency a task, combined into one score a channel."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lomt.errors import ScoreError, UnknownNameError
from lomt.pruning.interfaces import Prunable
from lomt.pruning.saliency import gradient_saliency
from lomt.structure.trace import named_outputs, run_model
from lomt.tasks.loss_gradients import Losses, task_losses

__all__ = ["COMBINATIONS", "SquaredOutputs", "SupervisedLosses", "TaskTaylor", "task_saliency"]

TaskScores = Mapping[str, Mapping[str, Tensor]]  # by task, by name of the coupled channels


def task_saliency(structure: Prunable, model: nn.Module, losses: Losses) -> dict[str, dict[str, Tensor]]:
    r"""Return every task's own saliency of every channel that the task uses.

    .. math:: s^t_c = \frac{1}{B} \sum_{b=1}^{B} \sum_{w \in g_c}
        \Big| w \, \frac{\partial L^t_b}{\partial w} \Big|

    as in :func:`lomt.pruning.saliency.gradient_saliency`, with one backward pass a task.

    Args:
        structure: What was traced from ``model``.
        model: The network; left as it was.
        losses: For each batch a dictionary of task name → loss.

    Returns:
        By task, then by name of the coupled channels, vectors (count,). Those of another task's decoder are absent.

    Raises:
        ScoreError: If the model is not the one that was traced, a loss is not one to differentiate, or a weight, a
            loss or a gradient is infinite or not a number.
    """
    return gradient_saliency(structure, model, losses, task_losses)


def union_rank(tasks: TaskScores, weights: Mapping[str, float]) -> dict[str, Float[Tensor, " channels"]]:
    r"""Keep what any task needs: the highest of the ranks that the tasks give a channel.

    .. math:: s_c = \max_t \; \frac{1}{N_t} \big| \{ c' \in C_t : s^t_{c'} < s^t_c \} \big|

    where :math:`C_t` are the :math:`N_t` channels that task :math:`t` uses, in the shared part and in its own
    decoder. DiSparse keeps the top fraction :math:`\kappa` of each task's channels and prunes what no task keeps,
    with :math:`\kappa` tuned by hand to reach a density. Keeping the channels with
    :math:`s_c \ge 1 - \kappa` is just that, so that a budget on these scores finds :math:`\kappa`. Different from
    the paper are the units, channel groups here and weights there.

    Args:
        tasks: Saliency by task and name.
        weights: Not used.
    """
    return _largest({task: _per_task(scores, _rank) for task, scores in tasks.items()})


def union_share(tasks: TaskScores, weights: Mapping[str, float]) -> dict[str, Float[Tensor, " channels"]]:
    r"""Keep what any task needs: the largest share that a channel has in a task's saliency.

    .. math:: s_c = \max_t \; s^t_c \Big/ \sum_{c' \in C_t} s^t_{c'}

    A union as well, with one threshold on normalised saliency for all tasks in place of one fraction: a task whose
    saliency is spread over many channels keeps fewer.

    Args:
        tasks: Saliency by task and name.
        weights: Not used.
    """
    return _largest({task: _per_task(scores, _share) for task, scores in tasks.items()})


def weighted_share(tasks: TaskScores, weights: Mapping[str, float]) -> dict[str, Float[Tensor, " channels"]]:
    r"""Average over tasks: the weighted sum of the shares that a channel has in each task's saliency.

    .. math:: s_c = \sum_t a_t \, s^t_c \Big/ \sum_{c' \in C_t} s^t_{c'}

    Args:
        tasks: Saliency by task and name.
        weights: :math:`a_t \ge 0` by task, 1 where absent.
    """
    combined: dict[str, Tensor] = {}
    for task, scores in tasks.items():
        for name, share in _per_task(scores, _share).items():
            combined[name] = combined.get(name, torch.zeros_like(share)) + weights.get(task, 1.0) * share
    return combined


COMBINATIONS: Mapping[str, Callable[[TaskScores, Mapping[str, float]], dict[str, Tensor]]] = {
    "union": union_rank,
    "share": union_share,
    "weighted": weighted_share,
}


@dataclass(frozen=True)
class TaskTaylor:
    """Score a channel by what each task by itself would lose without it.

    Args:
        losses: For each batch a dictionary of task name → loss: `SupervisedLosses` where there are labels,
            `SquaredOutputs` where there are none, or one's own, see :data:`lomt.tasks.loss_gradients.Losses`.
        combine: A key of `COMBINATIONS`; how one score is made of the tasks' own.
        weights: Of tasks, at least 0, 1 where absent; for ``"weighted"``.

    Raises:
        UnknownNameError: If there is no such combination.
        ValueError: If a weight is negative.

    References:
        Sun et al., "DiSparse: Disentangled Sparsification for Multitask Model Compression", 2022,
        https://arxiv.org/abs/2206.04662, section 3, and its public code.
    """

    losses: Losses
    combine: str = "union"
    weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.combine not in COMBINATIONS:
            raise UnknownNameError("combination", self.combine, COMBINATIONS)
        for task, weight in self.weights.items():
            if not weight >= 0:
                raise ValueError(f"Expected the weight of task `{task}` to be at least 0, but got {weight}.")

    def __call__(self, structure: Prunable, model: nn.Module) -> dict[str, Tensor]:
        """Score the channels, see :class:`lomt.pruning.interfaces.Importance`; those of no task get 0.

        Raises:
            ScoreError: If the model is not the one that was traced, a loss is not one to differentiate, or a
                weight, a loss or a gradient is infinite or not a number.
            UnknownNameError: If a weight is given to a task that has no loss.
        """
        tasks = task_saliency(structure, model, self.losses)
        for task in self.weights:
            if task not in tasks:
                raise UnknownNameError("task", task, tasks)
        scores = COMBINATIONS[self.combine](tasks, self.weights)
        return {
            c.name: scores.get(c.name, torch.zeros(c.count, dtype=torch.float64)) for c in structure.prunable
        }


@dataclass(frozen=True)
class SquaredOutputs:
    r"""Losses without labels: the mean square of each of the model's outputs.

    .. math:: L^t = \frac{1}{n_t} \lVert y^t \rVert_2^2

    What this loss depends on is what an output is made of. It knows nothing of which errors matter.

    Args:
        batches: Inputs of the model: a tensor, a tuple of them, or a dictionary of keyword arguments each.
    """

    batches: Iterable[Any]

    def __call__(self, model: nn.Module) -> Iterator[dict[str, Tensor]]:
        """Yield the losses, batch by batch.

        Raises:
            ScoreError: If no output has a gradient.
        """
        for inputs in self.batches:
            outputs = named_outputs(run_model(model, inputs))
            losses = {
                name: output.square().mean()
                for name, output in outputs.items()
                if output.is_floating_point() and output.requires_grad
            }
            if not losses:
                raise ScoreError(
                    "Expected an output with a gradient, which this importance reads, but the model cuts off the "
                    "gradients of all. Take importance `magnitude`, or change the model's `forward`."
                )
            yield losses


@dataclass(frozen=True)
class SupervisedLosses:
    """Losses from labels, task by task.

    Args:
        batches: Pairs of inputs (a tensor, a tuple or a dictionary of keyword arguments) and targets by task.
        losses: By task a function of prediction and target that returns a scalar. A task bears the name of its
            output, as the structure lists it.
    """

    batches: Iterable[tuple[Any, Mapping[str, Any]]]
    losses: Mapping[str, Callable[[Tensor, Any], Tensor]]

    def __call__(self, model: nn.Module) -> Iterator[dict[str, Tensor]]:
        """Yield the losses, batch by batch.

        Raises:
            UnknownNameError: If a task has no output of its name.
        """
        for inputs, targets in self.batches:
            outputs = named_outputs(run_model(model, inputs))
            for task in self.losses:
                if task not in outputs:
                    raise UnknownNameError("output", task, outputs)
            yield {task: loss(outputs[task], targets[task]) for task, loss in self.losses.items()}


def _per_task(scores: Mapping[str, Tensor], change: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    changed = change(torch.cat(list(scores.values()))) if scores else torch.empty(0)
    return dict(zip(scores, changed.split([len(values) for values in scores.values()]), strict=True))


def _rank(values: Tensor) -> Tensor:
    return torch.searchsorted(values.sort().values, values).double() / len(values)


def _share(values: Tensor) -> Tensor:
    total = values.sum()
    return values / total if total > 0 else values


def _largest(tasks: TaskScores) -> dict[str, Tensor]:
    combined: dict[str, Tensor] = {}
    for scores in tasks.values():
        for name, values in scores.items():
            combined[name] = torch.maximum(combined[name], values) if name in combined else values
    return combined
