"""From the raw predictions of a trained network to targets for others to learn."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lomt.data import TargetSpec
from lomt.errors import DataError, UnknownNameError
from lomt.tasks import KINDS
from lomt.tasks.layout import TaskKind

__all__ = ["OriginalAnswers", "as_target", "specs_of_answers"]

_SETTING = "`data.targets: original`"


@dataclass(frozen=True, eq=False)
class OriginalAnswers:
    """The map from images to targets that a trained network gives.

    Args:
        network: From prepared images to raw predictions by task, in eval mode.
        prepare: From images in 0 to 1 to prepared ones.
        kinds: Of the tasks to answer.
        device: Where the network runs; it is left there.
    """

    network: nn.Module
    prepare: Callable[[Tensor], Tensor]
    kinds: Mapping[str, TaskKind]
    device: torch.device

    @torch.no_grad()
    def predictions(self, images: Tensor) -> dict[str, Tensor]:
        """Return raw predictions by task for images in 0 to 1, ``(batch, 3, height, width)``.

        Raises:
            UnknownNameError: If the network does not know a task.
        """
        self.network.to(self.device)
        found = self.network(self.prepare(images).to(self.device))
        for task in self.kinds:
            if task not in found:
                raise UnknownNameError("prediction of the original network", task, found)
        return {task: found[task].float().cpu() for task in self.kinds}

    def __call__(self, images: Tensor) -> dict[str, np.ndarray]:
        """Return targets by task, ``(batch, ...)``, in the conventions of `lomt.data.sample`.

        Raises:
            DataError: If a prediction is not finite.
        """
        found = self.predictions(images)
        for task, prediction in found.items():
            if not bool(prediction.isfinite().all()):
                raise DataError(
                    f"Expected the original network's predictions of task `{task}` to be finite, but they are not. "
                    "Check its weights, and `data.mean` and `data.std`."
                )
        return {task: as_target(self.kinds[task], prediction) for task, prediction in found.items()}


def as_target(kind: TaskKind, prediction: Tensor) -> np.ndarray:
    """Turn raw predictions into a target, of the dtype in which targets of its kind are kept.

    Classes are the highest logits, edges and labels where a logit is above 0, heat maps probabilities, normals of unit
    length; a depth that is not positive is no label.

    Args:
        kind: Of the task.
        prediction: ``(batch, channels)`` or ``(batch, channels, height, width)``, finite.
    """
    return _CONVERSIONS[kind](prediction)


def _classes(logits: Tensor) -> np.ndarray:
    # of -channels: signed
    return logits.argmax(1).numpy().astype(np.min_scalar_type(-logits.shape[1]))


def _bits(logits: Tensor) -> np.ndarray:
    return (logits > 0).numpy().astype(np.int8)


def _heat(logits: Tensor) -> np.ndarray:
    return logits.sigmoid().half().numpy()


def _metres(depth: Tensor) -> np.ndarray:
    return depth.clamp(min=0).numpy()


def _unit_vectors(vectors: Tensor) -> np.ndarray:
    return functional.normalize(vectors, dim=1).half().numpy()


def _values(values: Tensor) -> np.ndarray:
    return values.numpy()


_CONVERSIONS: Mapping[TaskKind, Callable[[Tensor], np.ndarray]] = {
    "segmentation": _classes,
    "classification": _classes,
    "multilabel": _bits,
    "edges": _bits,
    "keypoints": _heat,
    "depth": _metres,
    "normals": _unit_vectors,
    "regression": _values,
}


def specs_of_answers(
    predictions: Mapping[str, Tensor],
    kinds: Mapping[str, TaskKind],
    size: tuple[int, int],
    own: Mapping[str, TargetSpec],
) -> dict[str, TargetSpec]:
    """Return what the targets are that a network's predictions give.

    Args:
        predictions: Raw ones by task, of some images.
        kinds: What the recipe says that each is.
        size: Height and width of the images, in pixels.
        own: By task of which the dataset has labels, what they are; they give classes their names, which are numbers
            otherwise.

    Raises:
        DataError: If a prediction has not the shape that its kind asks for, or labels are of another kind or number.
    """
    return {task: _spec(task, predictions[task], kinds[task], size, own.get(task)) for task in kinds}


def _spec(
    task: str, prediction: Tensor, kind: TaskKind, size: tuple[int, int], own: TargetSpec | None
) -> TargetSpec:
    facts, shape = KINDS[kind], tuple(prediction.shape)
    wanted = size if facts.is_dense else ()
    least = 2 if facts.holds_labels else 1
    channels = shape[1] if len(shape) > 1 else 0
    is_right = channels == facts.channels if facts.channels is not None else channels >= least
    if shape[2:] != wanted or not is_right:
        number = str(facts.channels) if facts.channels is not None else f"{least} or more"
        shown = ", ".join(["batch", number, *map(str, wanted)])
        raise DataError(
            f"Expected the original network's predictions of task `{task}` to have shape ({shown}), because "
            f"{_SETTING} makes targets of kind {kind} of them, but got {shape}. Give the task another `kind`, or "
            "leave it out."
        )
    if own is not None and (own.kind != kind or own.out_channels != channels):
        raise DataError(
            f"Expected the dataset's labels of task `{task}` to be of kind {kind} with {channels} outputs, as the "
            f"original network's predictions are, but target `{own.name}` is of kind {own.kind} with "
            f"{own.out_channels}. Give the task another name, or another `target`."
        )
    has_names = facts.holds_labels or kind == "multilabel"
    numbers = tuple(str(number) for number in range(channels)) if has_names else ()
    return TargetSpec(task, kind, own.classes if own is not None else numbers, channels)
