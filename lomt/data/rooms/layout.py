"""A random room: its size, the camera in it, and furniture that fits its kind."""

import colorsys
import math
from collections.abc import Mapping
from random import Random
from types import MappingProxyType

from lomt.data.rooms import materials
from lomt.data.rooms.camera import Camera
from lomt.data.rooms.furniture import FURNITURE, HANGINGS, chair, dining_table
from lomt.data.rooms.placement import Placement
from lomt.data.rooms.scene import SCENES, Cylinder, Item, Room, Sphere, Vector

__all__ = ["furnish"]

_EXTRAS: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "bedroom": {"cupboard": 0.9, "table": 0.5, "lamp": 0.6, "chair": 0.35, "crate": 0.2},
        "living_room": {"table": 0.75, "lamp": 0.7, "cupboard": 0.6, "chair": 0.35, "crate": 0.15},
        "dining_room": {"cupboard": 0.7, "lamp": 0.5, "chair": 0.2, "crate": 0.15},
        "storeroom": {"cupboard": 0.7, "table": 0.35, "chair": 0.35, "lamp": 0.3},
    }
)
"""Chance of each piece beside the ones that make a room what it is."""

_ANYWHERE = MappingProxyType({"rug": 0.5, "ball": 0.45, "bin": 0.4})
_ON_WALLS = MappingProxyType({"door": (0, 1, 1), "window": (0, 1, 1, 2), "picture": (0, 1, 2, 3)})


def furnish(rng: Random, scene: str, size: tuple[int, int]) -> tuple[Room, Camera]:
    """Draw a room of one kind and a camera that faces the furniture the kind is known by.

    Args:
        rng: Source of all choices.
        scene: One of `SCENES`.
        size: Height and width of the camera's image in pixels.

    Returns:
        The room and the camera.
    """
    assert scene in SCENES
    width, height, length = rng.uniform(3.2, 5.5), rng.uniform(2.3, 3.0), rng.uniform(3.5, 6.0)
    camera = _camera(rng, width, length, size)
    place = Placement(rng, width, height, length, camera)
    _add_signature(place, scene)
    signature = len(place.items)
    for class_name, chance in (*_EXTRAS[scene].items(), *_ANYWHERE.items()):
        if rng.random() < chance:
            place.stand(FURNITURE[class_name](rng))
    for class_name, counts in _ON_WALLS.items():
        for _ in range(rng.choice(counts)):
            place.hang(HANGINGS[class_name](rng))
    # Above all furniture and away from the walls, so that the light is inside no part that casts a shadow.
    across, below, along = rng.uniform(0.25, 0.75), rng.uniform(0.15, 0.35), rng.uniform(0.35, 0.8)
    light = (across * width, below - height, along * length)
    if rng.random() < 0.4:
        place.items.append(_pendant(rng, light, height))
    return _lit_room(rng, scene, place, signature, light), camera


def _camera(rng: Random, width: float, length: float, size: tuple[int, int]) -> Camera:
    """A camera near the wall z = 0 that looks across the room."""
    position = (rng.uniform(0.15, 0.85) * width, -rng.uniform(1.1, 1.9), rng.uniform(0.25, 0.7))
    aim = math.atan2(rng.uniform(0.3, 0.7) * width - position[0], length * rng.uniform(0.5, 0.7))
    pitch, roll = rng.uniform(0.02, 0.38), rng.gauss(0.0, 0.02)
    return Camera(position, aim, pitch, roll, math.radians(rng.uniform(58.0, 78.0)), size)


def _add_signature(place: Placement, scene: str) -> None:
    """Place what makes the room what it is, where the camera sees it."""
    rng = place.rng
    if scene == "bedroom":
        place.stand(FURNITURE["bed"](rng), is_seen=True)
    elif scene == "living_room":
        place.stand(FURNITURE["sofa"](rng), is_seen=True)
        if rng.random() < 0.35:
            place.stand(FURNITURE["sofa"](rng))
    elif scene == "dining_room":
        place.dine(dining_table(rng), [chair(rng)] * rng.randint(2, 5))
    else:
        for _ in range(rng.randint(3, 6)):
            place.stand(FURNITURE["crate"](rng), is_seen=True)
        for _ in range(rng.randint(1, 2)):
            place.stand(FURNITURE["bin"](rng))


def _pendant(rng: Random, light: Vector, height: float) -> Item:
    """A lamp that hangs where the light comes from; its parts cast no shadow, as the light is inside them."""
    radius = rng.uniform(0.12, 0.22)
    shade, cord = materials.glow(rng), materials.paint(rng, 0.05, 0.3, 0.2)
    parts = (
        Sphere((0.0, light[1], 0.0), radius, shade, casts_shadow=False),
        Cylinder(0.0, 0.0, 0.015, -height, light[1], cord, casts_shadow=False),
    )
    return Item("lamp", (light[0], 0.0, light[2]), 0.0, parts)


def _lit_room(rng: Random, scene: str, place: Placement, signature: int, light: Vector) -> Room:
    paper = materials.wallpaper(rng)
    accent = materials.wallpaper(rng) if rng.random() < 0.3 else paper
    red, green, blue = colorsys.hsv_to_rgb(rng.choice((0.1, 0.58)), rng.uniform(0.0, 0.2), 1.0)
    power, fill = rng.uniform(0.9, 1.4), rng.uniform(0.15, 0.35)
    return Room(
        scene=scene,
        width=place.width,
        height=place.height,
        length=place.length,
        walls=(paper, paper, paper, accent),
        ceiling=materials.ceiling(rng),
        floor=materials.floor(rng),
        items=tuple(place.items),
        signature=signature,
        light=light,
        light_colour=(power * red, power * green, power * blue),
        ambient=(fill, fill, fill * rng.uniform(0.9, 1.1)),
    )
