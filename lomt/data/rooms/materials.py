"""Random materials, so that a class is told by shape, place and texture rather than by its colour."""

import colorsys
from random import Random

from lomt.data.rooms.scene import Colour, Material, Pattern

__all__ = [
    "ceiling",
    "cloth",
    "door",
    "floor",
    "glow",
    "paint",
    "painting",
    "panels",
    "planks",
    "wallpaper",
    "window",
    "wood",
]


def paint(rng: Random, low: float = 0.1, high: float = 0.8, saturation: float = 0.6) -> Material:
    """One colour of a value between ``low`` and ``high``."""
    colour = _colour(rng, low, high, saturation)
    return Material("plain", (colour, colour, colour), grain=rng.uniform(0.1, 0.35))


def wood(rng: Random) -> Material:
    """Veined wood in a natural or painted colour."""
    return _mixed(
        rng, "clouds", _timber(rng), 0.75, (rng.uniform(0.2, 0.5), rng.uniform(2.0, 4.0)), grain=0.25
    )


def planks(rng: Random) -> Material:
    """Boards with visible joints."""
    return _mixed(rng, "bricks", _timber(rng), 0.7, (rng.uniform(0.5, 1.0), rng.uniform(4.0, 8.0)), grain=0.3)


def cloth(rng: Random) -> Material:
    """Upholstery, blankets and rugs: plain, striped, chequered or mottled."""
    colour = _colour(rng, 0.1, 0.8, 0.8)
    pattern: Pattern = rng.choice(("plain", "stripes", "checker", "clouds"))
    repeats = rng.uniform(2.0, 6.0)
    other = _colour(rng, 0.1, 0.9, 0.7)
    return Material(pattern, (colour, other, other), (repeats, repeats), grain=rng.uniform(0.15, 0.4))


def floor(rng: Random) -> Material:
    """Boards, tiles or carpet."""
    kind = rng.randrange(4)
    if kind == 0:
        return _mixed(
            rng, "bricks", _timber(rng), 0.65, (rng.uniform(0.4, 0.8), rng.uniform(3.0, 7.0)), grain=0.25
        )
    colour = _colour(rng, 0.12, 0.6, 0.45)
    repeats = rng.uniform(1.0, 2.5)
    if kind == 1:
        return _mixed(rng, "checker", colour, rng.uniform(0.4, 0.85), (repeats, repeats))
    if kind == 2:
        return _mixed(rng, "panels", colour, 0.9, (repeats, repeats), grain=0.35)
    return _mixed(rng, "clouds", colour, 0.7, (repeats, repeats), grain=0.5)


def wallpaper(rng: Random) -> Material:
    """What a wall is covered with: paint, stripes, bricks or a mottled plaster."""
    colour = _colour(rng, 0.35, 0.85, 0.35)
    kind = rng.randrange(6)
    if kind == 0:
        return _mixed(rng, "stripes", colour, rng.uniform(0.6, 0.85), (rng.uniform(1.5, 5.0), 1.0))
    if kind == 1:
        return _mixed(rng, "bricks", colour, 0.7, (rng.uniform(2.0, 4.0), rng.uniform(5.0, 9.0)), grain=0.3)
    if kind == 2:
        return _mixed(rng, "clouds", colour, 0.75, (0.8, 0.8), grain=0.3)
    return Material("plain", (colour, colour, colour), grain=rng.uniform(0.1, 0.3))


def ceiling(rng: Random) -> Material:
    """Light paint, sometimes boards."""
    colour = _colour(rng, 0.55, 0.95, 0.12)
    if rng.random() < 0.2:
        return _mixed(rng, "stripes", colour, 0.8, (rng.uniform(2.0, 5.0), 1.0))
    return Material("plain", (colour, colour, colour), grain=rng.uniform(0.05, 0.2))


def panels(rng: Random, base: Material, columns: int, rows: int) -> Material:
    """The front of a cupboard in the colours of ``base``: doors or drawers, separated by joints."""
    line = _scaled(base.colours[0], rng.choice((0.25, 0.4, 1.6)))
    colours = (base.colours[0], base.colours[1], line)
    return Material("panels", colours, (float(columns), float(rows)), fills_face=True, grain=base.grain)


def door(rng: Random) -> Material:
    """A door leaf with one to three panels."""
    colour = _timber(rng) if rng.random() < 0.5 else _colour(rng, 0.3, 0.9, 0.3)
    colours = (colour, colour, _scaled(colour, rng.uniform(0.3, 0.6)))
    return Material("panels", colours, (float(rng.randint(1, 2)), float(rng.randint(1, 3))), fills_face=True)


def window(rng: Random) -> Material:
    """Panes with daylight, blue above and grey or green below, or dark at night."""
    if rng.random() < 0.85:
        sky = colorsys.hsv_to_rgb(rng.uniform(0.5, 0.62), rng.uniform(0.05, 0.45), rng.uniform(0.8, 1.0))
        land = colorsys.hsv_to_rgb(rng.uniform(0.2, 0.45), rng.uniform(0.1, 0.5), rng.uniform(0.3, 0.8))
    else:
        sky = colorsys.hsv_to_rgb(rng.uniform(0.55, 0.7), rng.uniform(0.2, 0.6), rng.uniform(0.03, 0.1))
        land = _scaled(sky, 0.5)
    frame = _colour(rng, 0.4, 0.95, 0.2)
    panes = float(rng.randint(1, 3))
    return Material("window", (sky, land, frame), (panes, 1.0), fills_face=True, grain=0.1, emission=0.75)


def painting(rng: Random) -> Material:
    """A framed picture of blots in two colours."""
    colours = (_colour(rng, 0.05, 0.9, 0.8), _colour(rng, 0.2, 0.95, 0.8), _colour(rng, 0.05, 0.8, 0.5))
    return Material("picture", colours, fills_face=True, grain=0.3)


def glow(rng: Random) -> Material:
    """The shade of a lamp, lit or not."""
    colour = colorsys.hsv_to_rgb(rng.uniform(0.05, 0.17), rng.uniform(0.0, 0.5), rng.uniform(0.6, 1.0))
    emission = rng.uniform(0.6, 0.95) if rng.random() < 0.5 else 0.1
    return Material("plain", (colour, colour, colour), grain=0.1, emission=emission)


def _mixed(
    rng: Random,
    pattern: Pattern,
    colour: Colour,
    contrast: float,
    repeats: tuple[float, float],
    grain: float = 0.2,
) -> Material:
    """A pattern between a colour and the same one darker by ``contrast``, with still darker lines."""
    darker = _scaled(colour, contrast)
    return Material(pattern, (colour, darker, _scaled(colour, rng.uniform(0.35, 0.6))), repeats, grain=grain)


def _colour(rng: Random, low: float, high: float, saturation: float) -> Colour:
    return colorsys.hsv_to_rgb(rng.random(), saturation * rng.random(), rng.uniform(low, high))


def _timber(rng: Random) -> Colour:
    return colorsys.hsv_to_rgb(rng.uniform(0.04, 0.12), rng.uniform(0.25, 0.7), rng.uniform(0.15, 0.7))


def _scaled(colour: Colour, factor: float) -> Colour:
    return (min(1.0, colour[0] * factor), min(1.0, colour[1] * factor), min(1.0, colour[2] * factor))
