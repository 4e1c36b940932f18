"""What a room is made of, before anything is rendered.

Lengths are metres. The world frame is the camera's, upright: x to the right, y **down**, z forward, with the
floor at ``y = 0``, so that heights above the floor are negative. An item has a frame of its own: origin on
the floor in the middle of its footprint, front towards ``-z``, back towards ``+z``.
"""

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = [
    "CLASSES",
    "SCENES",
    "Box",
    "Colour",
    "Cylinder",
    "Item",
    "Material",
    "Part",
    "Pattern",
    "Room",
    "Sphere",
    "Vector",
]

CLASSES = (
    "ceiling",
    "floor",
    "wall",
    "window",
    "picture",
    "door",
    "rug",
    "table",
    "chair",
    "bed",
    "sofa",
    "cupboard",
    "crate",
    "bin",
    "lamp",
    "ball",
)
"""Names of the segmentation classes, in index order."""

SCENES = ("bedroom", "living_room", "dining_room", "storeroom")
"""Names of the kinds of room, in index order."""

Pattern: TypeAlias = Literal["plain", "stripes", "checker", "clouds", "bricks", "panels", "window", "picture"]
Colour: TypeAlias = tuple[float, float, float]
Vector: TypeAlias = tuple[float, float, float]


@dataclass(frozen=True)
class Material:
    """How a surface looks; colours are linear RGB, 0 to 1.

    Args:
        pattern: How the first two colours alternate.
        colours: Two colours of the pattern and one of its lines (joints, frames).
        repeats: Repeats of the pattern along the surface's two axes: a metre, or a face if ``fills_face``.
        fills_face: Whether the pattern is stretched over the face, as a door's panels are.
        grain: Strength of the fractal noise that every surface carries, 0 to 1.
        emission: Share of the colour that does not depend on the light, 0 to 1.
    """

    pattern: Pattern
    colours: tuple[Colour, Colour, Colour]
    repeats: tuple[float, float] = (1.0, 1.0)
    fills_face: bool = False
    grain: float = 0.2
    emission: float = 0.0


@dataclass(frozen=True)
class Box:
    """A box along the axes of its item's frame; ``front`` is the material of its two z faces, if another."""

    low: Vector
    high: Vector
    material: Material
    front: Material | None = None
    casts_shadow: bool = True


@dataclass(frozen=True)
class Cylinder:
    """An upright cylinder about ``(x, z)`` from height ``low`` down to ``high`` (y points down)."""

    x: float
    z: float
    radius: float
    low: float
    high: float
    material: Material
    casts_shadow: bool = True


@dataclass(frozen=True)
class Sphere:
    """A ball."""

    centre: Vector
    radius: float
    material: Material
    casts_shadow: bool = True


Part: TypeAlias = Box | Cylinder | Sphere


@dataclass(frozen=True)
class Item:
    """One object instance: what the label images show as one region.

    Args:
        class_name: One of `CLASSES`.
        position: Where the item's origin stands in the world.
        yaw: Turn about the vertical axis in radians; 0 faces ``-z``, a quarter turn faces ``-x``.
        parts: What it is made of, in the item's frame.
    """

    class_name: str
    position: Vector
    yaw: float
    parts: tuple[Part, ...]

    def to_world(self, x: float, z: float) -> tuple[float, float]:
        """Turn a point of the item's footprint into world x and z."""
        cos, sin = math.cos(self.yaw), math.sin(self.yaw)
        return self.position[0] + cos * x + sin * z, self.position[2] - sin * x + cos * z


@dataclass(frozen=True)
class Room:
    """A lit box with furniture; it spans 0 to ``width``, ``-height`` to 0 and 0 to ``length``.

    Args:
        scene: One of `SCENES`.
        width: Extent along x.
        height: From floor to ceiling.
        length: Extent along z.
        walls: Materials of the walls at x = 0, x = width, z = 0 and z = length.
        ceiling: Material of the ceiling.
        floor: Material of the floor.
        items: Furniture and what hangs on the walls.
        signature: How many of the first items make the room what ``scene`` says.
        light: Where the lamp is.
        light_colour: Brightness of the lamp by channel at a metre or less.
        ambient: Brightness by channel where the lamp does not reach.
    """

    scene: str
    width: float
    height: float
    length: float
    walls: tuple[Material, Material, Material, Material]
    ceiling: Material
    floor: Material
    items: tuple[Item, ...]
    signature: int
    light: Vector
    light_colour: Colour
    ambient: Colour
