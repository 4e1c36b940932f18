"""The pinhole camera."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float32, Float64

from lomt.data.rooms.scene import Vector

__all__ = ["Camera"]


@dataclass(frozen=True)
class Camera:
    r"""A pinhole camera without distortion: x right, y down, z forward along the optical axis.

    A point :math:`p` of the camera frame is seen at column :math:`f p_x / p_z + c_x` and row
    :math:`f p_y / p_z + c_y`, where the principal point :math:`(c_x, c_y)` is the image's centre and
    pixel ``(row, column)`` has its own centre at ``(row + 0.5, column + 0.5)``.

    Args:
        position: Where it is, in the world frame.
        yaw: Turn to the right about the vertical, radians.
        pitch: Turn downwards, radians.
        roll: Turn about the optical axis, radians.
        field_of_view: Horizontal angle of view, radians.
        size: Height and width of the image in pixels.
    """

    position: Vector
    yaw: float
    pitch: float
    roll: float
    field_of_view: float
    size: tuple[int, int]

    @property
    def focal_length(self) -> float:
        """Distance of the image plane, in pixels."""
        return self.size[1] / (2.0 * math.tan(self.field_of_view / 2.0))

    @cached_property
    def rotation(self) -> Float64[np.ndarray, "3 3"]:
        """The matrix that turns camera directions into world directions."""
        cos, sin = math.cos(self.yaw), math.sin(self.yaw)
        turn = np.array([[cos, 0.0, sin], [0.0, 1.0, 0.0], [-sin, 0.0, cos]])
        cos, sin = math.cos(self.pitch), math.sin(self.pitch)
        nod = np.array([[1.0, 0.0, 0.0], [0.0, cos, sin], [0.0, -sin, cos]])
        cos, sin = math.cos(self.roll), math.sin(self.roll)
        lean = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
        rotation: np.ndarray = turn @ nod @ lean
        return rotation

    @property
    def _slopes(self) -> tuple[Float64[np.ndarray, "1 width"], Float64[np.ndarray, "height 1"]]:
        """Horizontal slope of each column's rays and vertical slope of each row's."""
        height, width = self.size
        x = (np.arange(width) + 0.5 - width / 2.0) / self.focal_length
        y = (np.arange(height) + 0.5 - height / 2.0) / self.focal_length
        return x[None, :], y[:, None]

    @cached_property
    def rays(self) -> Float32[np.ndarray, "3 height width"]:
        """Camera-frame directions through the pixel centres, with z = 1: times the depth they are points."""
        rays = np.ones((3, *self.size), np.float32)
        rays[0], rays[1] = self._slopes
        return rays

    @cached_property
    def world_rays(self) -> Float32[np.ndarray, "3 height width"]:
        """The same directions in the world frame; no component is zero, so that they can be divided by."""
        x, y = self._slopes
        rays = np.empty((3, *self.size), np.float32)
        for axis, (right, down, forward) in enumerate(self.rotation.tolist()):
            np.add((right * x).astype(np.float32), (down * y + forward).astype(np.float32), out=rays[axis])
        rays[np.abs(rays) < 1e-7] = 1e-7
        return rays

    @cached_property
    def inverse_world_rays(self) -> Float32[np.ndarray, "3 height width"]:
        """One over the components of the world directions."""
        return 1.0 / self.world_rays

    def project(self, points: Float64[np.ndarray, "*shape 3"]) -> Float64[np.ndarray, "*shape 3"]:
        """Return column, row and depth of world points; the first two only count where depth is > 0."""
        local = (points - np.array(self.position)) @ self.rotation
        height, width = self.size
        depth = local[..., 2]
        scale = self.focal_length / np.where(depth > 0, depth, 1.0)
        column = local[..., 0] * scale + width / 2.0
        row = local[..., 1] * scale + height / 2.0
        return np.stack([column, row, depth], axis=-1)
