"""From a room to the depth and the surface of every pixel: exact ray casting, part by part.

A ray is ``origin + t * direction``. All rays of one call share their origin, which never lies in a part that
is hit; so each axis of a box has one plane that may be entered, or none, for all rays alike. Directions of
camera rays have z = 1 in the camera's frame, hence ``t`` *is* the depth along the optical axis.
"""

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Float32, Int16, Int64

from lomt.data.rooms.camera import Camera
from lomt.data.rooms.scene import Box, Cylinder, Item, Part, Room, Sphere, Vector
from lomt.data.rooms.surfaces import Surfaces, first_row

__all__ = ["Hits", "blocked", "cast"]

_NEAREST_M = 0.05
_LIT_FROM = 0.99
"""Share of the way from the lamp to a point beyond which nothing shades the point: there is its own part."""
_Meeting: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray | int]


@dataclass(frozen=True)
class Hits:
    """What the camera's rays hit first.

    Args:
        depth: Distance along the optical axis in metres.
        surface: Row of the surface in `Surfaces`.
    """

    depth: Float32[np.ndarray, "height width"]
    surface: Int16[np.ndarray, "height width"]


def cast(surfaces: Surfaces, camera: Camera) -> Hits:
    """Find the nearest surface along the ray of every pixel."""
    with np.errstate(divide="ignore", invalid="ignore"):
        hits = _cast_shell(surfaces.room, camera)
        windows = _windows(surfaces, camera)
        for item, parts in surfaces.parts_of_items:
            seen = [(index, part) for index, part in parts if windows[index, 0] < windows[index, 1]]
            if seen:
                _cast_item(item, seen, windows, camera, hits)
    return hits


def blocked(
    surfaces: Surfaces, points: Float32[np.ndarray, "3 height width"], light: Vector
) -> Bool[np.ndarray, "height width"]:
    """Tell which points the light does not reach because a part that casts a shadow is between."""
    origin = np.array(light, np.float32)
    towards = points - origin[:, None, None]
    shadow = np.zeros(points.shape[1:], bool)
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse = 1.0 / towards
        for item, parts in surfaces.parts_of_items:
            casting = [part for _, part in parts if part.casts_shadow]
            if not casting:
                continue
            rays = _Rays(item, light, towards, inverse)
            for part in casting:
                enter, leave, _ = rays.meet(part)
                shadow |= enter < np.minimum(leave, _LIT_FROM)
    return shadow


def _cast_shell(room: Room, camera: Camera) -> Hits:
    """Hit the walls, the floor and the ceiling from inside."""
    rays, inverse = camera.world_rays, camera.inverse_world_rays
    depth = np.full(camera.size, np.inf, np.float32)
    surface = np.zeros(camera.size, np.int16)
    limits = ((0.0, room.width), (-room.height, 0.0), (0.0, room.length))
    for axis, (low, high) in enumerate(limits):
        is_high = rays[axis] > 0
        here = camera.position[axis]
        t = np.where(is_high, np.float32(high - here), np.float32(low - here)) * inverse[axis]
        nearer = t < depth
        np.copyto(depth, t, where=nearer)
        np.copyto(surface, is_high.view(np.int8) + np.int16(2 * axis), where=nearer)
    return Hits(depth, surface)


def _windows(surfaces: Surfaces, camera: Camera) -> Int64[np.ndarray, "parts 4"]:
    """First and last rows and columns (exclusive) that may show each part; an empty range where none does."""
    height, width = camera.size
    seen = camera.project(surfaces.corners)
    low, high = np.floor(seen.min(axis=1)), np.ceil(seen.max(axis=1))
    bounds = np.stack([low[:, 1], high[:, 1], low[:, 0], high[:, 0]], axis=1)
    windows: np.ndarray = np.clip(bounds, 0, [height, height, width, width]).astype(np.int64)
    windows[low[:, 2] < _NEAREST_M] = (0, height, 0, width)
    is_hidden = (seen[..., 2].max(axis=1) < _NEAREST_M) | (windows[:, 2] >= windows[:, 3])
    windows[is_hidden, 1] = windows[is_hidden, 0]
    return windows


def _cast_item(
    item: Item,
    parts: list[tuple[int, Part]],
    windows: Int64[np.ndarray, "parts 4"],
    camera: Camera,
    hits: Hits,
) -> None:
    """Draw the parts of one item into the hits so far."""
    own = windows[[index for index, _ in parts]]
    top, left = own[:, 0].min(), own[:, 2].min()
    bottom, right = own[:, 1].max(), own[:, 3].max()
    window = slice(None), slice(top, bottom), slice(left, right)
    rays = _Rays(item, camera.position, camera.world_rays[window], camera.inverse_world_rays[window])
    for (index, part), (first, last, begin, end) in zip(parts, own, strict=True):
        inner = slice(first - top, last - top), slice(begin - left, end - left)
        outer = slice(first, last), slice(begin, end)
        enter, leave, face = rays.meet(part, inner)
        depth = hits.depth[outer]
        is_hit = enter < np.minimum(leave, depth)
        np.copyto(depth, enter, where=is_hit)
        np.copyto(hits.surface[outer], np.int16(first_row(index)) + face, where=is_hit)


class _Rays:
    """Rays in the frame of one item.

    Args:
        item: The item.
        origin: Their common origin in the world.
        directions: Their world directions, ``(3, height, width)``.
        inverse: One over the components of the directions.
    """

    def __init__(self, item: Item, origin: Vector, directions: np.ndarray, inverse: np.ndarray) -> None:
        cos, sin = math.cos(item.yaw), math.sin(item.yaw)
        x, y, z = (a - b for a, b in zip(origin, item.position, strict=True))
        self.origin = (cos * x - sin * z, y, sin * x + cos * z)
        if item.yaw == 0.0:
            self.x, self.y, self.z = directions
            self.inverse = tuple(inverse)
        else:
            self.x = cos * directions[0] - sin * directions[2]
            self.y = directions[1]
            self.z = sin * directions[0] + cos * directions[2]
            self.inverse = (1.0 / self.x, inverse[1], 1.0 / self.z)

    def meet(self, part: Part, window: tuple[slice, slice] = (slice(None), slice(None))) -> _Meeting:
        """Return where rays enter and leave a part and by which face; one that leaves first misses it."""
        if isinstance(part, Box):
            return self._meet_box(part, window)
        if isinstance(part, Cylinder):
            return self._meet_cylinder(part, window)
        assert isinstance(part, Sphere)
        return self._meet_sphere(part, window)

    def _meet_slab(
        self, axis: int, low: float, high: float, window: tuple[slice, slice]
    ) -> tuple[np.ndarray | None, np.ndarray]:
        """Where rays enter and leave the space between two planes; nowhere to enter if they start there."""
        origin, inverse = self.origin[axis], self.inverse[axis][window]
        if origin < low:
            return (low - origin) * inverse, (high - origin) * inverse
        if origin > high:
            return (high - origin) * inverse, (low - origin) * inverse
        return None, np.maximum((low - origin) * inverse, (high - origin) * inverse)

    def _meet_box(self, box: Box, window: tuple[slice, slice]) -> _Meeting:
        enter: np.ndarray | None = None
        leave: np.ndarray | None = None
        face: np.ndarray | int = 0
        for axis in range(3):
            begin, end = self._meet_slab(axis, box.low[axis], box.high[axis], window)
            leave = end if leave is None else np.minimum(leave, end, out=leave)
            if begin is None:
                continue
            if enter is None:
                enter, face = begin, axis
            else:
                face = np.where(begin > enter, np.int16(axis), face)
                enter = np.maximum(enter, begin, out=enter)
        assert enter is not None and leave is not None, "rays must not start in a box"
        return enter, leave, face

    def _meet_cylinder(self, cylinder: Cylinder, window: tuple[slice, slice]) -> _Meeting:
        x, z = self.x[window], self.z[window]
        from_axis = (self.origin[0] - cylinder.x, self.origin[2] - cylinder.z)
        enter, leave = _solve(
            x * x + z * z,
            from_axis[0] * x + from_axis[1] * z,
            from_axis[0] ** 2 + from_axis[1] ** 2 - cylinder.radius**2,
        )
        begin, end = self._meet_slab(1, cylinder.low, cylinder.high, window)
        leave = np.minimum(leave, end)
        if begin is None:
            return enter, leave, 0
        return np.maximum(enter, begin), leave, (begin > enter).astype(np.int16)

    def _meet_sphere(self, sphere: Sphere, window: tuple[slice, slice]) -> _Meeting:
        x, y, z = self.x[window], self.y[window], self.z[window]
        out = [a - b for a, b in zip(self.origin, sphere.centre, strict=True)]
        enter, leave = _solve(
            x * x + y * y + z * z,
            out[0] * x + out[1] * y + out[2] * z,
            out[0] ** 2 + out[1] ** 2 + out[2] ** 2 - sphere.radius**2,
        )
        return enter, leave, 0


def _solve(a: np.ndarray, half_b: np.ndarray, c: float) -> tuple[np.ndarray, np.ndarray]:
    """Solve ``a t² + 2 half_b t + c = 0``; NaN, which compares as a miss, where no solution is ahead.

    From an origin outside (``c > 0``) solutions lie ahead exactly where ``half_b < 0``.
    """
    root = np.sqrt(half_b * half_b - a * c)
    if c > 0.0:
        root = np.where(half_b < 0.0, root, np.float32(np.nan))
    return (-half_b - root) / a, (root - half_b) / a
