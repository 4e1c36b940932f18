"""The table of a room's surfaces: every pixel names one row, where what is drawn and labelled is looked up.

Rows 0 to 5 are the room's own planes in the order x = 0, x = width, ceiling, floor, z = 0, z = length. Part
``k`` of the furniture has rows ``6 + 3 k`` to ``8 + 3 k``: a box its x, y and z faces towards the camera, a
cylinder its side and its cap, a sphere one surface.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import numpy as np
from jaxtyping import Float32, Float64, Int64

from lomt.data.rooms.scene import CLASSES, Box, Cylinder, Item, Material, Part, Room, Sphere

SHELL = 6
"""Number of rows that belong to the room itself."""


_FACE_AXES = np.array([[2, 1], [0, 2], [0, 1]])
"""Along which axes of its item a face with normal along x, y or z is textured."""


def first_row(part: int) -> int:
    """Row of a part's first surface."""
    return SHELL + 3 * part


@dataclass(frozen=True)
class Surfaces:
    """A room as arrays.

    Args:
        room: The room.
        origin: The point its surfaces are seen from; tells which faces of boxes and cylinders are visible.
    """

    room: Room
    origin: tuple[float, float, float]

    @cached_property
    def parts(self) -> list[tuple[int, Part]]:
        """All parts of all items, each with the index of its item."""
        return [(index, part) for index, item in enumerate(self.room.items) for part in item.parts]

    @cached_property
    def parts_of_items(self) -> list[tuple[Item, list[tuple[int, Part]]]]:
        """Items with their parts, each with its index in `parts`."""
        numbered = ((owner, (index, part)) for index, (owner, part) in enumerate(self.parts))
        groups = groupby(numbered, key=lambda entry: entry[0])
        return [(self.room.items[owner], [entry[1] for entry in group]) for owner, group in groups]

    @cached_property
    def bounds(self) -> Float64[np.ndarray, "parts 2 3"]:
        """Lower and upper corner of every part, in its item's frame."""
        return np.array([_bounds(part) for _, part in self.parts]).reshape(-1, 2, 3)

    @cached_property
    def positions(self) -> Float64[np.ndarray, "parts 3"]:
        """World position of every part's item."""
        return np.array([self.room.items[owner].position for owner, _ in self.parts]).reshape(-1, 3)

    @cached_property
    def rotations(self) -> Float64[np.ndarray, "parts 3 3"]:
        """Matrices that turn directions of every part's item into world directions."""
        yaw = np.array([self.room.items[owner].yaw for owner, _ in self.parts])
        matrices = np.zeros((len(self.parts), 3, 3))
        matrices[:, 0, 0] = matrices[:, 2, 2] = np.cos(yaw)
        matrices[:, 0, 2] = np.sin(yaw)
        matrices[:, 2, 0] = -matrices[:, 0, 2]
        matrices[:, 1, 1] = 1.0
        return matrices

    @cached_property
    def corners(self) -> Float64[np.ndarray, "parts 8 3"]:
        """World corners of every part's bounding box."""
        bits = np.arange(8)[:, None] >> np.arange(3) & 1
        local = np.take_along_axis(self.bounds, np.broadcast_to(bits, (len(self.parts), 8, 3)), axis=1)
        corners: np.ndarray = local @ self.rotations.transpose(0, 2, 1)
        corners += self.positions[:, None]
        return corners

    @cached_property
    def normals(self) -> Float64[np.ndarray, "surfaces 3"]:
        """World normals of the plane surfaces, towards the origin; those of curved ones mean nothing."""
        shell = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], float)
        middle = self.bounds.mean(axis=1)
        local_origin = ((np.array(self.origin) - self.positions)[:, None] @ self.rotations)[:, 0]
        sign = np.where(local_origin < middle, -1.0, 1.0)
        faces = sign[:, :, None] * self.rotations.transpose(0, 2, 1)
        return np.concatenate([shell, faces.reshape(-1, 3)])

    @cached_property
    def instances(self) -> Int64[np.ndarray, " surfaces"]:
        """Object instance of every surface: 0 ceiling, 1 floor, 2 all walls, then the items in order."""
        owners = np.array([owner for owner, _ in self.parts], np.int64)
        return np.concatenate([[2, 2, 0, 1, 2, 2], np.repeat(owners + 3, 3)])

    @cached_property
    def classes(self) -> Int64[np.ndarray, " instances"]:
        """Class index of every instance."""
        names = ["ceiling", "floor", "wall", *(item.class_name for item in self.room.items)]
        return np.array([CLASSES.index(name) for name in names])

    @cached_property
    def materials(self) -> list[Material]:
        """Material of every surface."""
        low_x, high_x, low_z, high_z = self.room.walls
        shell = [low_x, high_x, self.room.ceiling, self.room.floor, low_z, high_z]
        return shell + [material for _, part in self.parts for material in _face_materials(part)]

    def texture_axes(
        self, offsets: Float64[np.ndarray, "surfaces 2"]
    ) -> tuple[Float32[np.ndarray, "surfaces 2 4"], Float32[np.ndarray, "surfaces 2"]]:
        """Return the linear maps from world points to places on their surface, and the patterns' repeats.

        Args:
            offsets: Where each surface's places start to count, in metres; from 0 if its pattern fills it.

        Returns:
            Maps ``(a, b, c, d)`` such that ``a x + b y + c z + d`` is the place in metres, and repeats of the
            pattern a metre; both for the two texture axes of each surface.
        """
        room = np.array([[[0.0, -self.room.height, 0.0], [self.room.width, 0.0, self.room.length]]])
        part = np.repeat(np.arange(len(self.parts) + 1), [SHELL] + [3] * len(self.parts))
        bounds = np.concatenate([room, self.bounds])[part]
        rotations = np.concatenate([np.eye(3)[None], self.rotations])[part]
        positions = np.concatenate([np.zeros((1, 3)), self.positions])[part]
        faces = np.concatenate([[0, 0, 1, 1, 2, 2], np.tile([0, 1, 2], len(self.parts))])
        axes = _FACE_AXES[faces]
        rows = np.arange(len(faces))[:, None]
        fills = np.array([material.fills_face for material in self.materials])[:, None]
        extent = (bounds[:, 1] - bounds[:, 0])[rows, axes]
        repeats = np.array([material.repeats for material in self.materials]) / np.where(fills, extent, 1.0)
        directions = rotations.transpose(0, 2, 1)[rows, axes]
        start = np.einsum("sax,sx->sa", directions, positions) + bounds[:, 0][rows, axes]
        shift = np.where(fills, 0.0, offsets) - start
        maps = np.concatenate([directions, shift[..., None]], axis=2)
        return maps.astype(np.float32), repeats.astype(np.float32)


def _bounds(part: Part) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    if isinstance(part, Box):
        return part.low, part.high
    if isinstance(part, Cylinder):
        r = part.radius
        return (part.x - r, part.low, part.z - r), (part.x + r, part.high, part.z + r)
    assert isinstance(part, Sphere)
    (x, y, z), r = part.centre, part.radius
    return (x - r, y - r, z - r), (x + r, y + r, z + r)


def _face_materials(part: Part) -> tuple[Material, Material, Material]:
    if isinstance(part, Box):
        return part.material, part.material, part.front or part.material
    return part.material, part.material, part.material
