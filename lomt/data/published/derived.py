"""Targets that are computed from others where a dataset does not have them."""

from dataclasses import dataclass

import numpy as np

from lomt.data.decode import Size, nearest
from lomt.data.label_edges import bridge_seams, label_edges
from lomt.data.plane_normals import Camera, plane_normals
from lomt.data.published.collection import TargetReader

__all__ = ["EdgesOfLabels", "NormalsOfDepth"]


@dataclass(frozen=True, eq=False)
class NormalsOfDepth:
    """Normals by planes fitted to depth at its stored size; see `lomt.data.plane_normals`.

    Args:
        depth: How to read the depth.
        camera: The camera, calibrated for any image size of this field of view.
        invalid: Stored depth that is none, beside zero and what is not finite.
    """

    depth: TargetReader
    camera: Camera
    invalid: float | None = None

    def __call__(self, row: int, size: Size) -> np.ndarray:
        """Read depth and fit planes."""
        stored = self.depth(row, size)
        stored = stored[:, :, 0] if stored.ndim == 3 and stored.shape[2] == 1 else stored
        if stored.ndim != 2:
            raise ValueError(f"Expected depth of shape (height, width), but got {stored.shape}.")
        depth = stored.astype(np.float32)
        if self.invalid is not None:
            depth[stored == self.invalid] = 0
        return plane_normals(depth, self.camera.scaled((depth.shape[0], depth.shape[1])))

    def place(self, row: int) -> str:
        """Name the file that the depth is read from."""
        return self.depth.place(row)


@dataclass(frozen=True, eq=False)
class EdgesOfLabels:
    """Edges by the boundaries of labels; see `lomt.data.label_edges`.

    Seams without label, up to six pixels wide in an image of 480 rows and in proportion otherwise, are closed
    first. Boundaries are those at the size wanted and not at the stored one: lines two pixels wide would
    otherwise break where they are made smaller.

    Args:
        labels: How to read the labels.
        unlabelled: Stored label that is none.
    """

    labels: TargetReader
    unlabelled: int

    def __call__(self, row: int, size: Size) -> np.ndarray:
        """Read labels and find their boundaries."""
        stored = self.labels(row, size)
        if stored.ndim != 2:
            raise ValueError(f"Expected labels of shape (height, width), but got {stored.shape}.")
        closed = bridge_seams(stored, self.unlabelled, max(1, round(stored.shape[0] / 160)))
        return label_edges(nearest(closed, size), self.unlabelled)

    def place(self, row: int) -> str:
        """Name the file that the labels are read from."""
        return self.labels.place(row)
