"""The catalogue: every piece of furniture as boxes, cylinders and spheres in its own frame."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from types import MappingProxyType

from lomt.data.rooms import materials
from lomt.data.rooms.scene import Box, Cylinder, Material, Part, Sphere

__all__ = ["FURNITURE", "HANGINGS", "Piece", "chair", "crate", "dining_table"]


@dataclass(frozen=True)
class Piece:
    """An item without a place.

    Args:
        class_name: One of `CLASSES`.
        width: Extent along its x axis in metres.
        depth: Extent along its z axis in metres.
        parts: What it is made of; the origin is on the floor in the middle of the footprint.
        height: Extent upwards in metres; only what is stacked or hung on a wall needs it.
    """

    class_name: str
    width: float
    depth: float
    parts: tuple[Part, ...]
    height: float = 0.0


def dining_table(rng: Random) -> Piece:
    """A table at which people sit on chairs."""
    return _table(rng, rng.uniform(0.9, 1.7), rng.uniform(0.75, 1.0), rng.uniform(0.68, 0.8))


def low_table(rng: Random) -> Piece:
    """A coffee or bedside table."""
    return _table(rng, rng.uniform(0.5, 1.1), rng.uniform(0.45, 0.7), rng.uniform(0.35, 0.6))


def chair(rng: Random) -> Piece:
    """A chair with four legs and a back."""
    width, seat, back = rng.uniform(0.4, 0.5), rng.uniform(0.42, 0.48), rng.uniform(0.8, 1.0)
    frame = materials.wood(rng) if rng.random() < 0.7 else materials.paint(rng)
    cover = materials.cloth(rng) if rng.random() < 0.5 else frame
    half = width / 2
    parts = (
        _block(-half, half, seat - 0.06, seat, -half, half, cover),
        _block(-half, half, seat, back, half - 0.05, half, frame, front=cover),
        *_legs(half, half, seat - 0.06, 0.045, frame),
    )
    return Piece("chair", width, width, parts)


def bed(rng: Random) -> Piece:
    """A bed with its head against the wall: mattress, blanket, pillows, headboard."""
    width, depth = rng.choice((rng.uniform(0.9, 1.1), rng.uniform(1.4, 1.8))), rng.uniform(1.9, 2.1)
    frame = materials.wood(rng)
    blanket, sheet = materials.cloth(rng), materials.paint(rng, 0.5, 0.95, 0.2)
    half, end, top = width / 2, depth / 2, rng.uniform(0.42, 0.6)
    split = end - rng.uniform(0.5, 0.8)
    pillows = 1 if width < 1.2 else 2
    each = width / pillows
    parts = [
        _block(-half, half, 0.08, top - 0.22, -end, end, frame),
        _block(-half, half, top - 0.22, top, -end, split, blanket),
        _block(-half + 0.02, half - 0.02, top - 0.22, top - 0.03, split, end - 0.06, sheet),
        _block(-half, half, 0.0, top + rng.uniform(0.25, 0.6), end - 0.06, end, frame),
    ]
    for index in range(pillows):
        left = -half + index * each
        parts.append(
            _block(left + 0.08, left + each - 0.08, top - 0.03, top + 0.1, end - 0.45, end - 0.08, sheet)
        )
    return Piece("bed", width, depth, tuple(parts))


def sofa(rng: Random) -> Piece:
    """A sofa with arms."""
    width, depth = rng.uniform(1.5, 2.3), rng.uniform(0.8, 0.95)
    cover = materials.cloth(rng)
    cushion = cover if rng.random() < 0.6 else materials.cloth(rng)
    half, end, seat, arm = width / 2, depth / 2, rng.uniform(0.38, 0.46), rng.uniform(0.15, 0.25)
    high = seat + rng.uniform(0.12, 0.22)
    parts = (
        _block(-half + arm, half - arm, 0.05, seat, -end, end - 0.2, cushion),
        _block(-half, half, 0.05, rng.uniform(0.75, 0.9), end - 0.2, end, cover),
        _block(-half, -half + arm, 0.05, high, -end, end - 0.2, cover),
        _block(half - arm, half, 0.05, high, -end, end - 0.2, cover),
    )
    return Piece("sofa", width, depth, parts)


def cupboard(rng: Random) -> Piece:
    """A wardrobe, a sideboard or a chest of drawers: doors or drawers in front, against a wall."""
    is_tall = rng.random() < 0.6
    width = rng.uniform(0.7, 1.6)
    height = rng.uniform(1.6, 2.15) if is_tall else rng.uniform(0.7, 1.1)
    depth = rng.uniform(0.4, 0.6)
    body = materials.wood(rng) if rng.random() < 0.6 else materials.paint(rng, 0.2, 0.9, 0.4)
    columns = max(1, round(width / 0.5))
    rows = rng.randint(1, 2) if is_tall else rng.randint(2, 4)
    front = materials.panels(rng, body, columns, rows)
    parts = (_block(-width / 2, width / 2, 0.0, height, -depth / 2, depth / 2, body, front=front),)
    return Piece("cupboard", width, depth, parts)


def crate(rng: Random) -> Piece:
    """A box of boards or cardboard."""
    width, depth, height = rng.uniform(0.35, 0.8), rng.uniform(0.35, 0.8), rng.uniform(0.3, 0.75)
    material = materials.planks(rng) if rng.random() < 0.6 else materials.paint(rng, 0.15, 0.7, 0.7)
    parts = (_block(-width / 2, width / 2, 0.0, height, -depth / 2, depth / 2, material),)
    return Piece("crate", width, depth, parts, height)


def bin_(rng: Random) -> Piece:
    """A waste bin or a barrel."""
    radius = rng.uniform(0.15, 0.32)
    height = radius * rng.uniform(2.0, 3.2)
    body = Cylinder(0.0, 0.0, radius, -height, 0.0, rng.choice((materials.paint, materials.planks))(rng))
    return Piece("bin", 2 * radius, 2 * radius, (body,), height)


def floor_lamp(rng: Random) -> Piece:
    """A pole with a round or cylindrical shade."""
    height, radius = rng.uniform(1.3, 1.7), rng.uniform(0.14, 0.22)
    pole, shade = materials.paint(rng, 0.05, 0.8, 0.3), materials.glow(rng)
    parts = (
        Cylinder(0.0, 0.0, 0.16, -0.03, 0.0, pole),
        Cylinder(0.0, 0.0, 0.02, -height, -0.03, pole, casts_shadow=False),
        Sphere((0.0, -height, 0.0), radius, shade)
        if rng.random() < 0.5
        else Cylinder(0.0, 0.0, radius, -height - 0.15, -height + 0.15, shade),
    )
    return Piece("lamp", 2 * radius, 2 * radius, parts)


def ball(rng: Random) -> Piece:
    """A ball on the floor."""
    radius = rng.uniform(0.14, 0.35)
    body = Sphere((0.0, -radius, 0.0), radius, rng.choice((materials.cloth, materials.paint))(rng))
    return Piece("ball", 2 * radius, 2 * radius, (body,))


def rug(rng: Random) -> Piece:
    """A carpet on the floor; other items may stand on it."""
    width, depth = rng.uniform(1.0, 2.4), rng.uniform(0.8, 1.8)
    body = _block(
        -width / 2, width / 2, 0.0, 0.015, -depth / 2, depth / 2, materials.cloth(rng), casts_shadow=False
    )
    return Piece("rug", width, depth, (body,))


def window(rng: Random) -> Piece:
    """A window; its lower edge is at height 0 until it is hung."""
    return _plate("window", rng.uniform(0.8, 1.9), rng.uniform(0.8, 1.3), 0.05, materials.window(rng))


def picture(rng: Random) -> Piece:
    """A framed picture."""
    return _plate("picture", rng.uniform(0.35, 1.1), rng.uniform(0.35, 0.8), 0.03, materials.painting(rng))


def door(rng: Random) -> Piece:
    """A closed door."""
    return _plate("door", rng.uniform(0.75, 1.0), rng.uniform(1.9, 2.1), 0.06, materials.door(rng))


FURNITURE: Mapping[str, Callable[[Random], Piece]] = MappingProxyType(
    {
        "table": low_table,
        "chair": chair,
        "bed": bed,
        "sofa": sofa,
        "cupboard": cupboard,
        "crate": crate,
        "bin": bin_,
        "lamp": floor_lamp,
        "ball": ball,
        "rug": rug,
    }
)
"""What stands on the floor, by class."""

HANGINGS: Mapping[str, Callable[[Random], Piece]] = MappingProxyType(
    {"window": window, "picture": picture, "door": door}
)
"""What is fixed to a wall, by class."""


def _table(rng: Random, width: float, depth: float, height: float) -> Piece:
    top = materials.wood(rng) if rng.random() < 0.7 else materials.paint(rng)
    legs = top if rng.random() < 0.6 else materials.paint(rng)
    half, end, thick = width / 2, depth / 2, rng.uniform(0.03, 0.07)
    parts = (
        _block(-half, half, height - thick, height, -end, end, top),
        *_legs(half - 0.03, end - 0.03, height - thick, rng.uniform(0.045, 0.08), legs),
    )
    return Piece("table", width, depth, parts)


def _legs(half: float, end: float, height: float, thick: float, material: Material) -> tuple[Box, ...]:
    """Four square legs whose outer corners are at ``(±half, ±end)``."""
    return tuple(
        _block(x, x + thick, 0.0, height, z, z + thick, material, casts_shadow=False)
        for x in (-half, half - thick)
        for z in (-end, end - thick)
    )


def _plate(class_name: str, width: float, height: float, depth: float, front: Material) -> Piece:
    """A flat thing whose back is the plane z = 0, with sides in the colour of its frame."""
    side = Material("plain", (front.colours[2],) * 3)
    body = _block(-width / 2, width / 2, 0.0, height, -depth, 0.0, side, front=front, casts_shadow=False)
    return Piece(class_name, width, depth, (body,), height)


def _block(
    left: float,
    right: float,
    bottom: float,
    top: float,
    near: float,
    far: float,
    material: Material,
    *,
    front: Material | None = None,
    casts_shadow: bool = True,
) -> Box:
    """A box given by heights above the floor, which are negative y."""
    return Box((left, -top, near), (right, -bottom, far), material, front, casts_shadow)
