"""Learning from a teacher's predictions beside the labels: one loss a kind of task."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from lomt.tasks import Task
from lomt.tasks.layout import TaskKind, TensorLayout

__all__ = ["DISTILLATION_LOSSES", "Distillation"]

_SHORTEST_VECTOR = (
    1e-3  # bounds the gradient of the angle where a vector vanishes, as the task's own loss does
)

EntryLoss = Callable[[Tensor, Tensor, TensorLayout, float], Tensor]
"""From the student's and the teacher's raw predictions to losses entry by entry, shaped like the label mask."""


def soft_labels(student: Tensor, teacher: Tensor, layout: TensorLayout, temperature: float) -> Tensor:
    r"""Return the divergence of the classes' softened probabilities, :math:`T^2 \, \mathrm{KL}(q^T \Vert p^T)`.

    :math:`T^2` keeps the gradient's size whatever the temperature.

    References:
        Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, https://arxiv.org/abs/1503.02531,
        section 2.
    """
    log_p, log_q = (F.log_softmax(logits / temperature, dim=1) for logits in (student, teacher))
    return temperature**2 * (log_q.exp() * (log_q - log_p)).sum(1)


def soft_bits(student: Tensor, teacher: Tensor, layout: TensorLayout, temperature: float) -> Tensor:
    """Return the same of each logit's two classes."""
    p, q = student / temperature, teacher / temperature
    ones = q.sigmoid() * (F.logsigmoid(q) - F.logsigmoid(p))
    zeros = (-q).sigmoid() * (F.logsigmoid(-q) - F.logsigmoid(-p))
    return temperature**2 * (ones + zeros)


def absolute_difference(student: Tensor, teacher: Tensor, layout: TensorLayout, temperature: float) -> Tensor:
    """Return how far predictions are apart, in the targets' unit; the temperature does not matter."""
    return (layout.activate(student) - layout.activate(teacher)).abs()


def squared_difference(student: Tensor, teacher: Tensor, layout: TensorLayout, temperature: float) -> Tensor:
    """Return the squared difference in the targets' unit; the temperature does not matter."""
    return (layout.activate(student) - layout.activate(teacher)).square()


def angle(student: Tensor, teacher: Tensor, layout: TensorLayout, temperature: float) -> Tensor:
    """Return one minus the cosine between predicted vectors; the temperature does not matter."""
    squared_lengths = student.square().sum(1, keepdim=True) * teacher.square().sum(1, keepdim=True)
    return 1 - (student * teacher).sum(1, keepdim=True) * (squared_lengths + _SHORTEST_VECTOR**2).rsqrt()


DISTILLATION_LOSSES: Mapping[TaskKind, EntryLoss] = {
    "segmentation": soft_labels,
    "classification": soft_labels,
    "multilabel": soft_bits,
    "edges": soft_bits,
    "depth": absolute_difference,
    "regression": absolute_difference,
    "keypoints": squared_difference,
    "normals": angle,
}


@dataclass(frozen=True)
class Distillation:
    r"""The losses :math:`w_t D_t` that pull a student's predictions towards a teacher's, to be added to the tasks' own.

    :math:`D_t` is the mean over the entries with a label: where the task's own loss looks away, so does this one.

    Args:
        teacher: From images as the student takes them to raw predictions by task; called without gradients, on the
            student's device.
        weights: :math:`w_t \ge 0` by task, 1 where absent; 0 leaves a task to its labels.
        temperature: :math:`T > 0` that softens probabilities.

    Raises:
        ValueError: If a weight is negative or the temperature is not above 0.
    """

    teacher: Callable[[Tensor], Mapping[str, Tensor]]
    weights: Mapping[str, float] = field(default_factory=dict)
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"Expected `temperature` to be above 0, but got {self.temperature}.")
        for task, weight in self.weights.items():
            if not weight >= 0:
                raise ValueError(f"Expected the weight of task `{task}` to be at least 0, but got {weight}.")

    def counts(self, tasks: Mapping[str, Task], targets: Mapping[str, Tensor]) -> Float[Tensor, " tasks"]:
        """Count the entries with a label, which the sums of a step are to be divided by.

        Args:
            tasks: By name.
            targets: By task.

        Returns:
            (tasks,) float64, in the order of the tasks.
        """
        masks = [task.loss.layout.find_valid(targets[name]) for name, task in tasks.items()]
        return torch.stack([mask.sum().double() for mask in masks])

    def sums(
        self,
        tasks: Mapping[str, Task],
        images: Float[Tensor, "batch channels height width"],
        predictions: Mapping[str, Tensor],
        targets: Mapping[str, Tensor],
    ) -> Float[Tensor, " tasks"]:
        """Sum the weighted losses over the entries with a label.

        Args:
            tasks: By name.
            images: As the student got them.
            predictions: The student's, by task.
            targets: By task.

        Returns:
            (tasks,) float32, in the order of the tasks.
        """
        with torch.no_grad():
            taught = self.teacher(images)
        return torch.stack(
            [
                self._sum(task, predictions[name].float(), taught[name].float(), targets[name])
                for name, task in tasks.items()
            ]
        )

    def _sum(self, task: Task, student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
        layout = task.loss.layout
        entries = DISTILLATION_LOSSES[layout.kind](student, teacher, layout, self.temperature)
        return self.weights.get(task.name, 1.0) * torch.where(layout.find_valid(target), entries, 0).sum()
