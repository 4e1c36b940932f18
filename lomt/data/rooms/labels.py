"""What is known exactly about every pixel: classes, instances, normals, boundaries."""

import numpy as np
from jaxtyping import Float32, Int8, Shaped

from lomt.data.rooms.camera import Camera
from lomt.data.rooms.raycast import Hits
from lomt.data.rooms.scene import Box, Cylinder, Sphere
from lomt.data.rooms.surfaces import Surfaces, first_row

__all__ = ["boundaries", "camera_normals"]


def boundaries(instances: Shaped[np.ndarray, "height width"]) -> Int8[np.ndarray, "height width"]:
    """Mark every pixel whose right or lower neighbour belongs to another object instance.

    Args:
        instances: Number of the object instance of each pixel.

    Returns:
        1 on a boundary, 0 elsewhere; lines are one pixel wide, on the upper or left side of the boundary.
    """
    edges = np.zeros(instances.shape, bool)
    edges[:, :-1] = instances[:, :-1] != instances[:, 1:]
    edges[:-1] |= instances[:-1] != instances[1:]
    return edges.view(np.int8)


def camera_normals(surfaces: Surfaces, camera: Camera, hits: Hits) -> Float32[np.ndarray, "3 height width"]:
    """Return unit normals in the camera's frame (x right, y down, z forward), on the camera's side."""
    table = (surfaces.normals @ camera.rotation).T.astype(np.float32)
    normals: np.ndarray = table.take(hits.surface, axis=1)
    for index, (_, part) in enumerate(surfaces.parts):
        if not isinstance(part, Box):
            pixels = np.flatnonzero(hits.surface == first_row(index))
            if len(pixels):
                curved = _curved_normals(surfaces, camera, hits, index, pixels)
                normals.reshape(3, -1)[:, pixels] = curved
    return normals


def _curved_normals(
    surfaces: Surfaces, camera: Camera, hits: Hits, index: int, pixels: np.ndarray
) -> Float32[np.ndarray, "3 pixels"]:
    """Directions away from a sphere's centre or a cylinder's axis."""
    item, part = surfaces.room.items[surfaces.parts[index][0]], surfaces.parts[index][1]
    points = camera.world_rays.reshape(3, -1).take(pixels, axis=1) * hits.depth.take(pixels)
    points += np.array(camera.position, np.float32)[:, None]
    if isinstance(part, Sphere):
        x, z = item.to_world(part.centre[0], part.centre[2])
        points[1] -= item.position[1] + part.centre[1]
    else:
        assert isinstance(part, Cylinder)
        x, z = item.to_world(part.x, part.z)
        points[1] = 0.0
    points[0] -= x
    points[2] -= z
    away: np.ndarray = np.einsum("wc,wp->cp", camera.rotation.astype(np.float32), points)
    away /= np.sqrt(np.einsum("cp,cp->p", away, away))
    return away
