"""What the tensors of each kind of task look like, and the checks that follow from it.

A batch holds one target tensor per task; entries without a label carry a value no label can have:

============== ==================================================== ====================
kind           target                                               ignored where
============== ==================================================== ====================
segmentation   int64 (batch, height, width), class indices          -1
depth          float32 (batch, 1, height, width), metres            not positive, or not finite
normals        float32 (batch, 3, height, width), camera frame      the zero vector
edges          float32 (batch, 1, height, width), 0 or 1            negative, by convention -1
keypoints      float32 (batch, channels, height, width), 0 to 1     negative
classification int64 (batch,), class indices                        -1
multilabel     float32 (batch, channels), 0 or 1                    negative, by convention -1
regression     float32 (batch, channels)                            NaN
============== ==================================================== ====================

Predictions are what a decoder emits, (batch, channels) or (batch, channels, height, width): logits for
segmentation, classification, edges, keypoints and multilabel, metres for depth, vectors of any length for
normals, plain values for regression.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

__all__ = ["IGNORED_LABEL", "KINDS", "KindFacts", "TaskKind", "TensorLayout"]

TaskKind = Literal[
    "segmentation",
    "depth",
    "normals",
    "edges",
    "keypoints",
    "classification",
    "multilabel",
    "regression",
]

IGNORED_LABEL = -1


@dataclass(frozen=True)
class KindFacts:
    """What all tasks of one kind share.

    Args:
        is_dense: Whether there is one prediction per pixel rather than one per image.
        find_valid: Maps a target to the mask of its labelled entries; the mask broadcasts to the target.
        holds_labels: Whether a target holds class indices and has no channel axis.
        has_logits: Whether a sigmoid turns predictions into what targets hold.
        channels: The only possible number of outputs; ``None`` leaves it to the task.
        highest: The largest value a float target may hold; ``None`` sets no bound.
    """

    is_dense: bool
    find_valid: Callable[[Tensor], Tensor]
    holds_labels: bool = False
    has_logits: bool = False
    channels: int | None = None
    highest: float | None = None


def _is_not_negative(target: Tensor) -> Tensor:
    return target >= 0


def _is_distance(target: Tensor) -> Tensor:
    return (target > 0) & (target < torch.inf)


def _is_direction(target: Tensor) -> Tensor:
    return target.abs().amax(dim=1, keepdim=True) != 0


def _is_number(target: Tensor) -> Tensor:
    return ~target.isnan()


KINDS: Mapping[str, KindFacts] = {
    "segmentation": KindFacts(is_dense=True, find_valid=_is_not_negative, holds_labels=True),
    "depth": KindFacts(is_dense=True, find_valid=_is_distance, channels=1),
    "normals": KindFacts(is_dense=True, find_valid=_is_direction, channels=3),
    "edges": KindFacts(is_dense=True, find_valid=_is_not_negative, has_logits=True, channels=1, highest=1.0),
    "keypoints": KindFacts(is_dense=True, find_valid=_is_not_negative, has_logits=True, highest=1.0),
    "classification": KindFacts(is_dense=False, find_valid=_is_not_negative, holds_labels=True),
    "multilabel": KindFacts(is_dense=False, find_valid=_is_not_negative, has_logits=True, highest=1.0),
    "regression": KindFacts(is_dense=False, find_valid=_is_number),
}


@dataclass(frozen=True)
class TensorLayout:
    """The shapes and value ranges of one task's predictions and targets.

    Args:
        task: Name of the task, for messages.
        kind: Kind of the task.
        channels: Number of outputs: classes, labels, values or vector components.
    """

    task: str
    kind: TaskKind
    channels: int

    @property
    def facts(self) -> KindFacts:
        """What all tasks of this kind share."""
        return KINDS[self.kind]

    def find_valid(self, target: Tensor) -> Tensor:
        """Find the labelled entries of a target.

        Args:
            target: Target in the kind's shape (see the module's table).

        Returns:
            Boolean mask, True where labelled; shaped like ``target``, with one channel for normals.
        """
        return self.facts.find_valid(target)

    def activate(self, prediction: Tensor) -> Tensor:
        """Turn raw predictions into the unit of the targets: the sigmoid of logits, others as they are."""
        return prediction.sigmoid() if self.facts.has_logits else prediction

    def check(self, prediction: Tensor, target: Tensor) -> None:
        """Check shapes, dtypes and the range of the target's values.

        On an accelerator, reading the range waits for the device; :meth:`check_form` does not.

        Raises:
            ValueError: A shape or a value of the target is not as the kind asks.
            TypeError: A dtype is not as the kind asks.
        """
        self.check_form(prediction, target)
        self.check_values(target)

    def check_form(self, prediction: Tensor, target: Tensor) -> None:
        """Check shapes and dtypes only, which never waits for a device.

        Raises:
            ValueError: A shape is not as the kind asks.
            TypeError: A dtype is not as the kind asks.
        """
        axes = ("batch", str(self.channels), *(("height", "width") if self.facts.is_dense else ()))
        if prediction.ndim != len(axes) or prediction.shape[1] != self.channels:
            raise ValueError(
                f"Expected `prediction` of task `{self.task}` to have shape ({', '.join(axes)}), "
                f"but got {tuple(prediction.shape)}."
            )
        shape = tuple(prediction.shape)
        wanted = (shape[:1] + shape[2:]) if self.facts.holds_labels else shape
        if tuple(target.shape) != wanted:
            raise ValueError(
                f"Expected `target` of task `{self.task}` to have shape {wanted}, as the prediction's shape "
                f"{shape} asks for, but got {tuple(target.shape)}."
            )
        self._check_dtypes(prediction, target)

    def check_values(self, target: Tensor) -> None:
        """Check that class indices and bounded values lie in their range; costs one pass over the target.

        Raises:
            ValueError: A label or value is out of range.
        """
        if not bool(self.is_out_of_range(target)):
            return
        low, high = (bound.item() for bound in target.aminmax())
        if self.facts.holds_labels:
            worst = low if low < IGNORED_LABEL else high
            raise ValueError(
                f"Expected labels of task `{self.task}` to be 0 to {self.channels - 1}, or {IGNORED_LABEL} "
                f"where ignored, but got {worst}. Map other labels, such as an ignore label of 255, "
                f"to {IGNORED_LABEL}."
            )
        raise ValueError(
            f"Expected `target` of task `{self.task}` to lie in 0 to {self.facts.highest:g}, or below 0 "
            f"where ignored, but got {high:g}. Divide 8-bit maps by 255."
        )

    def is_out_of_range(self, target: Tensor) -> Tensor:
        """Tell on the target's device, without waiting for it, whether any label or value is out of range.

        Returns:
            Boolean scalar tensor; False for kinds without bounds.
        """
        facts = self.facts
        if target.numel() and facts.holds_labels:
            low, high = (bound.long() for bound in target.aminmax())  # unsigned ones know no -1
            return (low < IGNORED_LABEL) | (high >= self.channels)
        if target.numel() and facts.highest is not None:
            return ~(target.amax() <= facts.highest)  # negated, so that NaN is out of range too
        return torch.zeros((), dtype=torch.bool, device=target.device)

    def _check_dtypes(self, prediction: Tensor, target: Tensor) -> None:
        is_integer = not (target.is_floating_point() or target.is_complex() or target.dtype == torch.bool)
        if not prediction.is_floating_point():
            name, wanted, dtype = "prediction", "floating point", prediction.dtype
        elif self.facts.holds_labels and not is_integer:
            name, wanted, dtype = "target", "integer class indices", target.dtype
        elif not self.facts.holds_labels and not target.is_floating_point():
            name, wanted, dtype = "target", "floating point", target.dtype
        else:
            return
        raise TypeError(f"Expected `{name}` of task `{self.task}` to be {wanted}, but got {dtype}.")
