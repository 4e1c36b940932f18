"""From surfaces to an image: materials, one lamp with shadows, ambient light, lens and sensor."""

import numpy as np
from jaxtyping import Float32, Int16, UInt8

from lomt.data.rooms.camera import Camera
from lomt.data.rooms.raycast import Hits, blocked
from lomt.data.rooms.scene import Colour, Room, Vector
from lomt.data.rooms.surfaces import Surfaces
from lomt.data.rooms.textures import PATTERNS, noise

__all__ = ["photograph"]

_GRAIN_PER_M = 0.4
_SHADOW_STEP = 2
_PATTERN_NAMES = list(PATTERNS)


def photograph(
    surfaces: Surfaces,
    camera: Camera,
    hits: Hits,
    normals: Float32[np.ndarray, "3 height width"],
    rng: np.random.Generator,
) -> UInt8[np.ndarray, "height width 3"]:
    """Render what the camera sees.

    Args:
        surfaces: The room.
        camera: The camera.
        hits: What its rays hit.
        normals: Unit normals in the camera's frame.
        rng: Places textures; draws exposure and sensor noise.

    Returns:
        The image, RGB.
    """
    points = camera.world_rays * hits.depth
    points += _channels(camera.position)
    facing = -np.einsum("chw,chw->hw", normals, camera.rays)
    pixel_m = hits.depth / (camera.focal_length * np.maximum(facing, 0.2))
    albedo, emission = _albedo(surfaces, hits.surface, points, pixel_m, rng)

    shadow = blocked(surfaces, points[:, ::_SHADOW_STEP, ::_SHADOW_STEP], surfaces.room.light)
    lamp = _lamp(surfaces.room, camera, hits.depth, normals) * _shade(shadow, camera.size)
    lit = 1.0 - emission
    light = (lit * lamp) * _channels(surfaces.room.light_colour)
    light += (lit * _openness(surfaces.room, points)) * _channels(surfaces.room.ambient)
    light += emission
    light *= albedo
    return _develop(light, rng)


def _albedo(
    surfaces: Surfaces,
    surface: Int16[np.ndarray, "height width"],
    points: Float32[np.ndarray, "3 height width"],
    pixel_m: Float32[np.ndarray, "height width"],
    rng: np.random.Generator,
) -> tuple[Float32[np.ndarray, "3 height width"], Float32[np.ndarray, "height width"]]:
    """Colours and shares of emission."""
    materials = surfaces.materials
    maps, repeats = surfaces.texture_axes(64.0 + 64.0 * rng.random((len(materials), 2)))
    a = maps.reshape(-1, 8).T.take(surface, axis=1)
    u = a[0] * points[0] + a[1] * points[1] + a[2] * points[2] + a[3]
    v = a[4] * points[0] + a[5] * points[1] + a[6] * points[2] + a[7]
    looks = np.array([(*material.colours[0], material.grain, material.emission) for material in materials])
    looks = looks.T.astype(np.float32).take(surface, axis=1)
    colour = looks[:3]
    _paint_patterns(surfaces, repeats, surface, (u, v, pixel_m), colour)
    start_u, start_v = rng.random(2).tolist()
    grain = noise(_GRAIN_PER_M * u + start_u, _GRAIN_PER_M * v + start_v, _GRAIN_PER_M * pixel_m)
    grain -= 0.5
    grain *= 1.6 * looks[3]
    grain += 1.0
    colour *= grain
    return colour, looks[4]


def _paint_patterns(
    surfaces: Surfaces,
    repeats: Float32[np.ndarray, "surfaces 2"],
    surface: Int16[np.ndarray, "height width"],
    places: tuple[np.ndarray, np.ndarray, np.ndarray],
    colour: Float32[np.ndarray, "3 height width"],
) -> None:
    """Mix the patterns' other colours into ``colour``; ``places``: u, v and a pixel's width in metres."""
    flat_colour, flat_surface = colour.reshape(3, -1), surface.ravel()
    kinds = np.array([_PATTERN_NAMES.index(material.pattern) for material in surfaces.materials], np.int8)
    kind = kinds.take(flat_surface)
    others = np.array([(*material.colours[1], *material.colours[2]) for material in surfaces.materials])
    others = others.T.astype(np.float32)
    for index in np.flatnonzero(np.bincount(kind)):
        if _PATTERN_NAMES[index] == "plain":
            continue
        pixels = np.flatnonzero(kind == index)
        u, v, pixel_m = (place.take(pixels) for place in places)
        rows = flat_surface.take(pixels)
        scale_u, scale_v = repeats.T.take(rows, axis=1)
        blur = np.maximum(0.5 * pixel_m * (scale_u + scale_v), 1e-3)
        mixture, line = PATTERNS[_PATTERN_NAMES[index]](u * scale_u, v * scale_v, blur)
        mixed = flat_colour.take(pixels, axis=1)
        for share, second in ((mixture, others[:3]), (line, others[3:])):
            if share is not None:
                mixed += share * (second.take(rows, axis=1) - mixed)
        for channel in range(3):
            flat_colour[channel][pixels] = mixed[channel]


def _lamp(
    room: Room,
    camera: Camera,
    depth: Float32[np.ndarray, "height width"],
    normals: Float32[np.ndarray, "3 height width"],
) -> Float32[np.ndarray, "height width"]:
    """Lambert's law for the room's lamp, fading with distance."""
    light = (np.array(room.light) - np.array(camera.position)) @ camera.rotation
    towards = light.astype(np.float32)[:, None, None] - camera.rays * depth
    squared = np.einsum("chw,chw->hw", towards, towards)
    lit: np.ndarray = np.einsum("chw,chw->hw", normals, towards)
    np.maximum(lit, 0.0, out=lit)
    lit /= np.sqrt(squared) * (0.6 + 0.1 * squared)
    return lit


def _shade(shadow: np.ndarray, size: tuple[int, int]) -> Float32[np.ndarray, "height width"]:
    """Soften a shadow known at every other pixel; return the share of light that is left, at full size."""
    left = _soften(1.0 - 0.85 * shadow.astype(np.float32), 0.25)
    left = left.repeat(_SHADOW_STEP, axis=0).repeat(_SHADOW_STEP, axis=1)
    return left[: size[0], : size[1]]


def _channels(values: Colour | Vector) -> Float32[np.ndarray, "3 1 1"]:
    return np.array(values, np.float32)[:, None, None]


def _openness(
    room: Room, points: Float32[np.ndarray, "3 height width"]
) -> Float32[np.ndarray, "height width"]:
    """Less ambient light reaches the corners of the room."""
    middles = (0.5 * room.width, -0.5 * room.height, 0.5 * room.length)
    dark = np.zeros(points.shape[1:], np.float32)
    for position, middle in zip(points, middles, strict=True):
        distance = abs(middle) - np.abs(position - middle)
        dark += 0.12 / (1.0 + 9.0 * distance * distance)
    return 1.1 - dark


def _develop(
    light: Float32[np.ndarray, "3 height width"], rng: np.random.Generator
) -> UInt8[np.ndarray, "height width 3"]:
    """Lens blur, exposure, gamma, noise (uniform, as it is cheap) and rounding."""
    exposure, noise_level = rng.uniform(0.85, 1.25), rng.uniform(1.0, 5.0)
    image = _soften(light, 0.12)
    image *= exposure * 255.0**2
    np.sqrt(image, out=image)
    grain = np.frombuffer(rng.bytes(image.size), np.int8).reshape(image.shape)
    image += (noise_level / 74.0) * grain.astype(np.float32)
    np.clip(image, 0.0, 255.0, out=image)
    developed = np.empty((*image.shape[1:], 3), np.uint8)
    for channel in range(3):
        developed[..., channel] = image[channel]
    return developed


def _soften(image: Float32[np.ndarray, "*channels height width"], weight: float) -> np.ndarray:
    """Give ``weight`` to the two neighbours of every pixel, first along its row, then along its column."""
    for axis in (-1, -2):
        source = np.moveaxis(image, axis, 0)
        soft = (1.0 - 2.0 * weight) * image
        target = np.moveaxis(soft, axis, 0)
        spill = weight * source
        target[1:] += spill[:-1]
        target[:-1] += spill[1:]
        target[[0, -1]] += spill[[0, -1]]
        image = soft
    return image
