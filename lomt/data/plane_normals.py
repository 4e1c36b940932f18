r"""Surface normals where a dataset has none: planes fitted to its depth.

A plane :math:`n \cdot P = d` seen by a pinhole camera: the point at pixel :math:`(u, v)` with depth :math:`z` is
:math:`P = z (x, y, 1)` with :math:`x = (u - c_x) / f_x` and :math:`y = (v - c_y) / f_y`, so that

.. math:: 1 / z = (n_x x + n_y y + n_z) / d

is affine in x and y. Its three coefficients, found by least squares over the pixels around one, are the normal up to
length. On a plane this is exact whatever its slant, which a fit of z is not.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

__all__ = ["Camera", "plane_normals"]

_RADIUS = 3
"""Of the square window, in pixels: 7x7."""
_LARGEST_JUMP = 0.05
"""Pixels whose depth differs by more than this share of the centre's belong to another surface."""
_FEWEST = 6
"""Pixels below which no plane is fitted; three would do without noise."""


@dataclass(frozen=True)
class Camera:
    """A pinhole camera's intrinsics, in pixels of the image it was calibrated for.

    Args:
        fx: Focal length along the image's width.
        fy: Focal length along its height.
        cx: Column of the principal point.
        cy: Row of the principal point.
        size: Height and width of the image.
    """

    fx: float
    fy: float
    cx: float
    cy: float
    size: tuple[int, int]

    def scaled(self, size: tuple[int, int]) -> "Camera":
        """Return the camera of the same field of view at another image size."""
        down, across = size[0] / self.size[0], size[1] / self.size[1]
        # the centre of the first pixel is at 0
        cx, cy = (self.cx + 0.5) * across - 0.5, (self.cy + 0.5) * down - 0.5
        return Camera(self.fx * across, self.fy * down, cx, cy, size)


def plane_normals(
    depth: Float32[np.ndarray, "height width"], camera: Camera
) -> Float32[np.ndarray, "height width 3"]:
    """Fit a plane around each pixel and return its normal, which faces the camera.

    The window has 7x7 pixels. Those without depth, or whose depth differs by more than 5 % from the centre's,
    are left out. Where fewer than six remain, or all lie in a line, there is no normal.

    Args:
        depth: Distance along the optical axis in any unit, float32 ``(H, W)``; 0 without depth.
        camera: The camera of this image size.

    Returns:
        float32 ``(H, W, 3)``, unit vectors in the camera's frame (x to the right, y down, z forward), the zero
        vector where there is none.
    """
    valid = np.isfinite(depth) & (depth > 0)
    inverse = np.divide(1, depth, out=np.zeros(depth.shape, np.float32), where=valid)
    sums = _window_sums(inverse.astype(np.float64), camera)
    count, sx, sy, sxx, sxy, syy, sq, sxq, syq = sums
    safe = np.maximum(count, 1)
    mx, my, mq = sx / safe, sy / safe, sq / safe
    xx, xy, yy = sxx / safe - mx * mx, sxy / safe - mx * my, syy / safe - my * my
    xq, yq = sxq / safe - mx * mq, syq / safe - my * mq
    determinant = xx * yy - xy * xy
    fits = valid & (count >= _FEWEST) & (determinant > 1e-3 * (xx + yy) ** 2)
    divisor = np.where(fits, determinant, 1)
    a, b = (xq * yy - yq * xy) / divisor, (yq * xx - xq * xy) / divisor
    x = (np.arange(depth.shape[1]) - camera.cx) / camera.fx
    y = (np.arange(depth.shape[0])[:, None] - camera.cy) / camera.fy
    c = mq - a * (mx + x) - b * (my + y)
    length = np.sqrt(a * a + b * b + c * c)
    fits &= length > 0
    normals = -np.stack([a, b, c], axis=2) / np.where(fits, length, 1)[..., None]
    normals[~fits] = 0
    return normals.astype(np.float32)


def _window_sums(inverse: np.ndarray, camera: Camera) -> list[np.ndarray]:
    """Sum 1, x, y, xx, xy, yy, q, xq, yq over each window; x and y from the centre, q the inverse depth."""
    height, width = inverse.shape
    padded = np.pad(inverse, _RADIUS)
    sums = [np.zeros(inverse.shape) for _ in range(9)]
    for i in range(-_RADIUS, _RADIUS + 1):
        for j in range(-_RADIUS, _RADIUS + 1):
            q = padded[_RADIUS + i : _RADIUS + i + height, _RADIUS + j : _RADIUS + j + width]
            # |1/q - 1/q0| <= jump / q0, without a division
            weight = ((np.abs(q - inverse) <= _LARGEST_JUMP * q) & (q > 0)).astype(np.float64)
            x, y, wq = j / camera.fx, i / camera.fy, weight * q
            for total, factor in zip(sums[:6], (1, x, y, x * x, x * y, y * y), strict=True):
                if factor:
                    total += factor * weight
            for total, factor in zip(sums[6:], (1, x, y), strict=True):
                if factor:
                    total += factor * wq
    return sums
