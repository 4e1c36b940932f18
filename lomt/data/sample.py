"""What a sample is: its targets, their conventions, and what a dataset has to offer.

A batch, as `BatchLoader` yields it, is a ``dict[str, Tensor]`` with the key ``"image"`` (float32, ``(B, 3, H,
W)``, RGB, 0 to 1) and one key for each target:

============== ============================================ =====================
kind           in a batch                                   entries without label
============== ============================================ =====================
segmentation   int64 ``(B, H, W)``, class index             -1
depth          float32 ``(B, 1, H, W)``, metres             0
normals        float32 ``(B, 3, H, W)``, unit vectors       zero vector
edges          float32 ``(B, 1, H, W)``, 0 or 1             -1
keypoints      float32 ``(B, K, H, W)``, heat map 0 to 1    negative
classification int64 ``(B,)``, class index                  -1
multilabel     float32 ``(B, K)``, 0 or 1                   -1
regression     float32 ``(B, K)``                           NaN
============== ============================================ =====================

Normals are in the camera frame: x along the image's width, so a mirrored image changes the sign of x.

A `Sample` is the same without the batch axis, as NumPy arrays in whatever dtype holds the values in the least
space (int8 labels, float16 normals); only the image differs: uint8, ``(H, W, 3)``. `collate` turns samples
into a batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, get_args, runtime_checkable

import numpy as np

from lomt.errors import UnknownNameError

__all__ = ["DENSE_KINDS", "IMAGE", "TARGET_KINDS", "Dataset", "Sample", "Split", "TargetKind", "TargetSpec"]

TargetKind: TypeAlias = Literal[
    "segmentation", "depth", "normals", "edges", "keypoints", "classification", "multilabel", "regression"
]
Split: TypeAlias = Literal["train", "validation", "test"]
Sample: TypeAlias = dict[str, np.ndarray]

TARGET_KINDS: tuple[TargetKind, ...] = get_args(TargetKind)
DENSE_KINDS: frozenset[TargetKind] = frozenset({"segmentation", "depth", "normals", "edges", "keypoints"})
IMAGE = "image"
"""Key of the image in samples and batches; no target may have this name."""

_CHANNELS: dict[TargetKind, int] = {"depth": 1, "normals": 3, "edges": 1}
_WITH_CLASSES = ("segmentation", "classification", "multilabel")


@dataclass(frozen=True)
class TargetSpec:
    """What a target is, as far as a task has to know it.

    Args:
        name: Key of the target in samples and batches.
        kind: Kind of the target; the table above tells its dtype and shape.
        classes: Names of the classes (segmentation, classification) or labels (multilabel), in index order.
        channels: Number of heat maps (keypoints) or values (regression); other kinds ignore it.

    Raises:
        UnknownNameError: If ``kind`` is not among `TARGET_KINDS`.
        ValueError: If the kind needs classes and there are none, if a class stands twice, if ``channels`` is
            below 1 or if the name is ``"image"``.
    """

    name: str
    kind: TargetKind
    classes: tuple[str, ...] = ()
    channels: int = 1

    def __post_init__(self) -> None:
        """Check what the other parts rely on."""
        if self.kind not in TARGET_KINDS:
            raise UnknownNameError("target kind", self.kind, TARGET_KINDS)
        if self.name == IMAGE:
            raise ValueError("Expected `name` of a target to be other than `image`, which is the input.")
        if self.kind in _WITH_CLASSES and not self.classes:
            raise ValueError(f"Expected `classes` of target `{self.name}` ({self.kind}) not to be empty.")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f"Expected `classes` of target `{self.name}` to be all different.")
        if self.channels < 1:
            raise ValueError(
                f"Expected `channels` of target `{self.name}` to be at least 1, but got {self.channels}."
            )

    @property
    def is_dense(self) -> bool:
        """Whether there is one value or vector for every pixel."""
        return self.kind in DENSE_KINDS

    @property
    def out_channels(self) -> int:
        """How many outputs a head for this target needs (per pixel where it is dense)."""
        if self.kind in _WITH_CLASSES:
            return len(self.classes)
        return _CHANNELS.get(self.kind, self.channels)


@runtime_checkable
class Dataset(Protocol):
    """The map from an index to a decoded `Sample`; all samples have the same height and width."""

    @property
    def name(self) -> str:
        """Short name for tables and logs."""

    @property
    def targets(self) -> Mapping[str, TargetSpec]:
        """The targets of every sample by name, in order."""

    @property
    def fingerprint(self) -> str:
        """Hexadecimal hash that changes when the samples may have changed."""

    def __len__(self) -> int:
        """Return the number of samples."""

    def sample(self, index: int) -> Sample:
        """Return one sample; the same index always gives the same values, from any thread or process.

        Args:
            index: From 0 to ``len(self) - 1``.

        Returns:
            New arrays, which the caller may keep but must not modify.
        """
