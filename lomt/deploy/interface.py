"""What goes into a deployed network and what comes out: image preparation, answers, classes and units."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from lomt.errors import ArtifactError, UnknownNameError
from lomt.tasks import KINDS

__all__ = ["ANSWERS", "Interface", "Preprocessing"]

ANSWERS: Final = ("raw", "probabilities", "labels")
_ORDERS: Final = ("RGB", "BGR")
_UNITS: Final[Mapping[str, str]] = {"depth": "m"}


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes what the network was trained on: ``(image / highest - mean) / std``, red first.

    Args:
        mean: Of each channel, for values in 0 to 1, red first.
        std: Standard deviation of each channel, likewise.
        channel_order: Of the images that the file takes.
        highest: Largest value of the images that the file takes, 1 or 255.
        is_baked: Whether the file does it; otherwise whoever calls it has to.

    Raises:
        ValueError: The numbers cannot be used.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    channel_order: str = "RGB"
    highest: float = 1.0
    is_baked: bool = False

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or not self.mean or min(self.std) <= 0:
            raise ValueError(
                "Expected `mean` and `std` to have one number a channel, and those of `std` to be above 0, but got "
                f"{self.mean} and {self.std}."
            )
        if self.channel_order not in _ORDERS:
            raise UnknownNameError("channel order", self.channel_order, _ORDERS)
        if self.highest not in (1, 255):
            raise ValueError(
                f"Expected the highest value of an image to be 1 or 255, but got {self.highest}."
            )
        if self.channel_order == "BGR" and len(self.mean) != 3:
            raise ValueError(f"Expected 3 channels for the order BGR, but got {len(self.mean)}.")

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}


@dataclass(frozen=True)
class Interface:
    """What a deployed network takes and gives.

    Args:
        preprocessing: Of images; ``None`` where nobody said.
        kinds: Kind of each task, see :mod:`lomt.tasks.layout`; tasks of unknown kind are left out.
        classes: Names of the outputs of each task that has such names.
        answer: ``"raw"``: what the model computes. ``"probabilities"``: the softmax or sigmoid of logits, normals of
            length 1. ``"labels"``: the index of the largest logit where a target holds indices, otherwise as before.

    Raises:
        UnknownNameError: A kind or the answer is unknown.
    """

    preprocessing: Preprocessing | None = None
    kinds: Mapping[str, str] = field(default_factory=dict)
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    answer: str = "raw"

    def __post_init__(self) -> None:
        if self.answer not in ANSWERS:
            raise UnknownNameError("answer", self.answer, ANSWERS)
        for kind in self.kinds.values():
            if kind not in KINDS:
                raise UnknownNameError("task kind", kind, KINDS)

    @property
    def is_baked(self) -> bool:
        """Whether the file prepares images itself."""
        return self.preprocessing is not None and self.preprocessing.is_baked

    def values(self, task: str) -> str:
        """Say what the numbers of a task's output are."""
        kind = self.kinds.get(task)
        if kind is None:
            return "as the model puts them out"
        if self.answer == "labels" and KINDS[kind].holds_labels:
            return "labels"
        if KINDS[kind].holds_labels or KINDS[kind].has_logits:
            return "logits" if self.answer == "raw" else "probabilities"
        if kind == "normals":
            return "vectors of any length" if self.answer == "raw" else "unit vectors"
        return "metres" if kind == "depth" else "values"

    def to_metadata(self, tasks: Sequence[str]) -> dict[str, str]:
        """Return the entries of an ONNX file's metadata that describe these tasks."""
        outputs = {
            task: {
                "kind": self.kinds.get(task),
                "values": self.values(task),
                "unit": _UNITS.get(self.kinds.get(task, ""), ""),
                "classes": list(self.classes.get(task, ())),
            }
            for task in tasks
        }
        preprocessing = None if self.preprocessing is None else self.preprocessing.to_dict()
        return {
            "lomt.answer": self.answer,
            "lomt.outputs": json.dumps(outputs),
            "lomt.preprocessing": json.dumps(preprocessing),
        }

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> "Interface":
        """Read what :meth:`to_metadata` wrote; a file of other origin has an empty interface.

        Raises:
            ArtifactError: The entries cannot be read.
        """
        try:
            outputs = json.loads(metadata.get("lomt.outputs", "{}"))
            given = json.loads(metadata.get("lomt.preprocessing", "null"))
            if given is not None:
                given = Preprocessing(**{**given, "mean": tuple(given["mean"]), "std": tuple(given["std"])})
            return cls(
                preprocessing=given,
                kinds={task: entry["kind"] for task, entry in outputs.items() if entry["kind"]},
                classes={
                    task: tuple(entry["classes"]) for task, entry in outputs.items() if entry["classes"]
                },
                answer=metadata.get("lomt.answer", "raw"),
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ArtifactError(
                f"Expected the metadata `lomt.outputs` and `lomt.preprocessing` to be as lomt writes them, but got: "
                f"{error!r}. Export the file again."
            ) from error
