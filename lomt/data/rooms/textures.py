"""Procedural patterns, evaluated at texture coordinates and blurred to the size of a pixel.

Every pattern maps coordinates, counted in its own repeats, to a mixture (0: first colour, 1: second) and a
line strength (1: the colour of joints and frames); either is None if 0 everywhere. ``blur`` is the width of a
pixel in repeats: details below it fade to their average, as they do through a lens.
"""

from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
from jaxtyping import Float32

from lomt.data.rooms.scene import Pattern

__all__ = ["PATTERNS", "noise"]

Coordinates: TypeAlias = Float32[np.ndarray, "*pixels"]
Mixture: TypeAlias = tuple[Coordinates | None, Coordinates | None]

_TILE = 256
_LEVELS = 6
_CLOUDS_PER_TILE = 8.0


def noise(u: Coordinates, v: Coordinates, blur: Coordinates) -> Coordinates:
    """Look up fractal noise of mean 0.5 and period 1; details smaller than ``blur`` are left out."""
    level = np.log2(np.maximum(blur * _TILE, 1.0))
    index = np.minimum(level, _LEVELS - 1).astype(np.int32) * _TILE
    index += (v * _TILE).astype(np.int32) & (_TILE - 1)
    index *= _TILE
    index += (u * _TILE).astype(np.int32) & (_TILE - 1)
    texels: np.ndarray = _noise_levels().take(index)
    return texels


@cache
def _noise_levels() -> Float32[np.ndarray, " texels"]:
    """One tile for each level of detail, flat: sums of interpolated random grids, the finest left out."""
    rng = np.random.default_rng(20250101)
    octaves = []
    for grid in (4, 8, 16, 32, 64, 128):
        values = rng.random((grid, grid))
        for axis in (0, 1):
            position = np.arange(_TILE) * grid / _TILE
            cell = position.astype(int)
            t = position - cell
            t = (t * t * (3 - 2 * t)).reshape((-1, 1) if axis == 0 else (1, -1))
            values = (1 - t) * values.take(cell, axis) + t * values.take((cell + 1) % grid, axis)
        octaves.append((values - 0.5) * grid**-0.5)
    levels = np.stack([np.sum(octaves[: len(octaves) - level], axis=0) for level in range(_LEVELS)])
    levels -= levels.mean(axis=(1, 2), keepdims=True)
    texels: np.ndarray = np.clip(levels / (4.0 * levels[0].std()) + 0.5, 0.0, 1.0).astype(np.float32)
    return texels.ravel()


def _plain(u: Coordinates, v: Coordinates, blur: Coordinates) -> Mixture:
    return None, None


def _stripes(u: Coordinates, v: Coordinates, blur: Coordinates) -> Mixture:
    return 0.5 + 0.5 * _square_wave(u, blur), None


def _checker(u: Coordinates, v: Coordinates, blur: Coordinates) -> Mixture:
    return 0.5 + 0.5 * _square_wave(u, blur) * _square_wave(v, blur), None


def _clouds(u: Coordinates, v: Coordinates, blur: Coordinates) -> Mixture:
    scale = 1.0 / _CLOUDS_PER_TILE
    mixture = noise(u * scale, v * scale, blur * scale)
    return np.clip(3.0 * mixture - 1.0, 0.0, 1.0), None


def _bricks(u: Coordinates, v: Coordinates, blur: Coordinates) -> Mixture:
    """Rows, each shifted against the last, of bricks of slightly different colours."""
    row = np.floor(v)
    u = u + 0.618 * row
    column = np.floor(u)
    mixture = noise(0.137 * column + 0.071 * row, 0.223 * row, 0.0 * blur)
    joints = np.maximum(_joint(u, blur, 0.015), _joint(v, blur, 0.05))
    return np.clip(2.0 * mixture - 0.5, 0.0, 1.0), joints


def _panels(u: Coordinates, v: Coordinates, blur: Coordinates) -> Mixture:
    """Joints all around each panel and a knob at its right."""
    joints = np.maximum(_joint(u, blur, 0.03), _joint(v, blur, 0.03))
    knob = np.abs(u - np.floor(u) - 0.88) + np.abs(v - np.floor(v) - 0.5) < 0.06
    return None, np.maximum(joints, knob)


def _window(u: Coordinates, v: Coordinates, blur: Coordinates) -> Mixture:
    """Sky above land behind the frames of the panes."""
    hills = noise(0.11 * u, 0.0 * v, 0.0 * blur)
    frame = np.maximum(_joint(u, blur, 0.05), _joint(v, blur, 0.05))
    return _step(v + 0.5 * hills - 0.85, blur + 0.15), frame


def _picture(u: Coordinates, v: Coordinates, blur: Coordinates) -> Mixture:
    """Blots within a frame."""
    blots = noise(0.3 * u, 0.3 * v, 0.3 * blur)
    frame = np.maximum(_joint(u, blur, 0.08), _joint(v, blur, 0.08))
    return _step(blots - 0.5, blur + 0.2), frame


PATTERNS: Mapping[Pattern, Callable[[Coordinates, Coordinates, Coordinates], Mixture]] = MappingProxyType(
    {
        "plain": _plain,
        "stripes": _stripes,
        "checker": _checker,
        "clouds": _clouds,
        "bricks": _bricks,
        "panels": _panels,
        "window": _window,
        "picture": _picture,
    }
)
"""Every pattern by name."""


def _step(x: Coordinates, blur: Coordinates) -> Coordinates:
    """0 below zero, 1 above, a ramp as wide as ``blur`` between."""
    ramp: np.ndarray = np.clip(x / blur + 0.5, 0.0, 1.0)
    return ramp


def _square_wave(u: Coordinates, blur: Coordinates) -> Coordinates:
    """-1 and 1 in turn, half a repeat each."""
    distance = np.abs(u - np.floor(u) - 0.5) - 0.25
    wave: np.ndarray = np.clip(2.0 * distance / blur, -1.0, 1.0)
    wave *= np.clip(2.0 - 2.0 * blur, 0.0, 1.0)
    return wave


def _joint(u: Coordinates, blur: Coordinates, half_width: float) -> Coordinates:
    """1 within ``half_width`` of an integer, 0 elsewhere; thinner than a pixel it fades."""
    distance = 0.5 - np.abs(u - np.floor(u) - 0.5)
    width = np.maximum(blur, half_width)
    joint = _step(half_width - distance, width)
    joint *= 2.0 * half_width / (width + half_width)
    return joint
