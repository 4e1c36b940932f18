"""From a stored file to an array of the wanted size in the conventions of `lomt.data.sample`.

Errors are ``ValueError`` with the condition alone; `FolderDataset` adds file, line and column.
"""

import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image

from lomt.data.columns import (
    DenseColumn,
    DepthColumn,
    EdgesColumn,
    KeypointsColumn,
    NormalsColumn,
    SegmentationColumn,
)
from lomt.data.half_precision import convert
from lomt.data.sample import TargetKind, TargetSpec

__all__ = [
    "DECODERS",
    "UNREADABLE",
    "Size",
    "decode_image",
    "decode_stored",
    "decode_target",
    "fit_image",
    "nearest",
    "read_array",
    "reason",
    "without_label",
]

Size: TypeAlias = tuple[int, int]
"""Height and width in pixels."""

UNREADABLE = (ValueError, OSError, SyntaxError, EOFError, zlib.error, Image.DecompressionBombError)
"""What Pillow and NumPy raise on damaged files."""

_EIGHT_BIT = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
_ASPECT_TOLERANCE = 0.02
"""How far the shapes of target and image may differ; sizes halved with rounding stay well below."""
_HIGHEST_HEAT = 1.0001
"""Heat above 1 by more than rounding is a wrong scale."""
_SHORTEST_NORMAL = 0.5
"""Stored vectors shorter than this are no normals: mid-grey is an 8-bit file's zero vector."""


def read_array(path: Path) -> np.ndarray:
    """Return a file's stored values as they are: NPY, or the pixels of PNG and JPEG (indices of a palette).

    Args:
        path: The file; NPY where the name ends in ``.npy``, otherwise an image.

    Raises:
        ValueError, OSError, SyntaxError: If the file is damaged or of another format.
    """
    if path.suffix.lower() == ".npy":
        array: np.ndarray = np.load(path, allow_pickle=False)
        return array
    with Image.open(path) as image:
        return np.asarray(image)


def reason(error: Exception) -> str:
    """Return what is wrong with a file, in a sentence, from one of `UNREADABLE`."""
    if isinstance(error, FileNotFoundError):
        return "Expected this file, but there is none."
    return str(error) if str(error).startswith("Expected") else f"Cannot be read: {error}."


def decode_image(path: Path, size: Size | None) -> tuple[UInt8[np.ndarray, "height width 3"], Size]:
    """Read an image and resize it, bilinearly and antialiased.

    Args:
        path: 8-bit image file, or NPY uint8 ``(H, W, 3)``.
        size: Height and width wanted; None keeps the stored ones.

    Returns:
        uint8 ``(height, width, 3)``, RGB, and the stored height and width.

    Raises:
        ValueError, OSError, SyntaxError: If the file is damaged or of another kind.
    """
    if path.suffix.lower() == ".npy":
        return fit_image(_image_of_array(read_array(path)), size)
    with Image.open(path) as file:
        if file.mode not in _EIGHT_BIT:
            raise ValueError(f"Expected an image of 8 bits a channel, but got Pillow's mode {file.mode}.")
        return fit_image(file.convert("RGB"), size)


def fit_image(image: Image.Image, size: Size | None) -> tuple[UInt8[np.ndarray, "height width 3"], Size]:
    """Resize an RGB image, bilinearly and antialiased.

    Args:
        image: The image; not modified.
        size: Height and width wanted; None keeps the image's own.

    Returns:
        uint8 ``(height, width, 3)``, and the image's own height and width.
    """
    stored = (image.height, image.width)
    if size is not None and stored != size:
        image = image.resize(size[::-1], Image.Resampling.BILINEAR)
    return np.asarray(image), stored


def _image_of_array(array: np.ndarray) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise ValueError(
            f"Expected uint8 of shape (height, width, 3), but got {array.dtype} of {array.shape}."
        )
    return Image.fromarray(array)


def decode_target(path: Path, target: DenseColumn, size: Size, image_size: Size) -> np.ndarray:
    """Read a dense target and resize it: heat maps bilinearly, all others to the nearest pixel.

    Args:
        path: The file; its values may be of another size than the image, but must show the same field of
            view.
        target: How the values are stored.
        size: Height and width wanted.
        image_size: Height and width of the sample's stored image.

    Returns:
        The target in its convention, with its axes as in a batch, of the smallest dtype that holds it.

    Raises:
        ValueError, OSError, SyntaxError: If the file is damaged or not as described.
    """
    return decode_stored(read_array(path), target, size, image_size)


def decode_stored(stored: np.ndarray, target: DenseColumn, size: Size, image_size: Size) -> np.ndarray:
    """Bring a dense target's stored values into its convention; see `decode_target`.

    Args:
        stored: The values as they stand in the file.
        target: How they are to be understood.
        size: Height and width wanted.
        image_size: Height and width of the sample's stored image.

    Raises:
        ValueError: If the values are not as described.
    """
    planes = _planes(stored, target.stored_channels)
    height, width = planes.shape[:2]
    stretch = (height * image_size[1]) / (width * image_size[0])
    if abs(stretch - 1) > _ASPECT_TOLERANCE:
        raise ValueError(
            "Expected the same ratio of height to width as the image's, "
            f"but got {height}x{width} beside an image of {image_size[0]}x{image_size[1]}."
        )
    return DECODERS[type(target)](planes, target, size)


def without_label(spec: TargetSpec, size: Size) -> np.ndarray:
    """Return a dense target of which no pixel has a label."""
    value, dtype = _UNLABELLED[spec.kind]
    shape = size if spec.kind == "segmentation" else (spec.out_channels, *size)
    return np.full(shape, value, dtype)


_UNLABELLED: Mapping[TargetKind, tuple[int, type[np.generic]]] = {
    "segmentation": (-1, np.int8),
    "depth": (0, np.float32),
    "normals": (0, np.float16),
    "edges": (-1, np.int8),
    "keypoints": (-1, np.float16),
}


def nearest(
    array: Shaped[np.ndarray, "stored_height stored_width *rest"], size: Size
) -> Shaped[np.ndarray, "height width *rest"]:
    """Resize the first two axes by taking, for each new pixel, the stored one in which its centre lies.

    Args:
        array: Values ``(H, W, ...)``.
        size: Height and width wanted.
    """
    if array.shape[:2] == size:
        return array
    rows, columns = (
        (2 * np.arange(new) + 1) * old // (2 * new) for new, old in zip(size, array.shape, strict=False)
    )
    resized: np.ndarray = array.take(rows, axis=0).take(columns, axis=1)
    return resized


def _planes(array: np.ndarray, channels: int) -> np.ndarray:
    """Return ``(H, W, channels)``; channels may be stored last, first or, where there is one, not at all."""
    if array.dtype.kind not in "biuf":
        raise ValueError(f"Expected numbers, but got dtype {array.dtype}.")
    if array.ndim == 2 and channels == 1:
        return array[:, :, None]
    if array.ndim == 3 and array.shape[2] == channels:
        return array
    if array.ndim == 3 and array.shape[0] == channels:
        return np.moveaxis(array, 0, 2)
    wanted = "(height, width)" if channels == 1 else f"(height, width, {channels})"
    raise ValueError(f"Expected shape {wanted}, but got {array.shape}.")


def _decode_segmentation(planes: np.ndarray, target: SegmentationColumn, size: Size) -> np.ndarray:
    stored = nearest(planes[:, :, 0], size)
    if stored.dtype.kind == "f":
        raise ValueError(f"Expected integer labels, but got dtype {stored.dtype}.")
    labels = stored.astype(np.int64) - target.first_index
    count = len(target.classes)
    ignored = stored == target.ignore_index if target.ignore_index is not None else np.zeros(size, bool)
    wrong = ((labels < 0) | (labels >= count)) & ~ignored
    if wrong.any():
        last = target.first_index + count - 1
        but = "" if target.ignore_index is None else f" or {target.ignore_index} (`ignore_index`)"
        raise ValueError(
            f"Expected labels from {target.first_index} to {last}{but}, "
            f"but got {int(stored[wrong][0])} in {int(wrong.sum())} pixels."
        )
    labels[ignored] = -1
    return labels.astype(np.min_scalar_type(-count))  # of -count: signed


def _decode_depth(planes: np.ndarray, target: DepthColumn, size: Size) -> np.ndarray:
    stored = nearest(planes, size)
    depth: np.ndarray = stored.astype(np.float32) * np.float32(target.scale)
    valid = np.isfinite(depth) & (depth > 0)
    if target.invalid is not None:
        valid &= stored != target.invalid
    depth[~valid] = 0
    return np.moveaxis(depth, 2, 0)


def _decode_normals(planes: np.ndarray, target: NormalsColumn, size: Size) -> np.ndarray:
    stored = nearest(planes, size)
    # three contiguous planes: a sum over a last axis of three costs many times as much
    vectors = np.moveaxis(stored, 2, 0).astype(np.float32, order="C")
    if stored.dtype == np.uint8:
        vectors /= np.float32(127.5)
        vectors -= 1
    elif stored.dtype.kind != "f":
        raise ValueError(f"Expected 8-bit colours or floats, but got dtype {stored.dtype}.")
    length = np.sqrt(np.square(vectors).sum(axis=0))
    valid = np.isfinite(length) & (length >= _SHORTEST_NORMAL)
    if target.invalid is not None:
        valid &= (stored != np.array(target.invalid)).any(axis=2)
    length[~valid] = np.inf
    vectors /= length
    if stored.dtype.kind == "f":  # what is not finite is not zero yet
        vectors[:, ~valid] = 0
    return convert(vectors, np.empty(vectors.shape, np.float16))


def _decode_edges(planes: np.ndarray, target: EdgesColumn, size: Size) -> np.ndarray:
    stored = nearest(planes, size)
    edges: np.ndarray = (stored > target.threshold).astype(np.int8)
    edges[np.isnan(stored)] = -1
    if target.ignore_index is not None:
        edges[stored == target.ignore_index] = -1
    return np.moveaxis(edges, 2, 0)


def _decode_keypoints(planes: np.ndarray, target: KeypointsColumn, size: Size) -> np.ndarray:
    scale = target.scale or _HEAT_SCALE.get(planes.dtype.str[1:], 1.0)
    heat = planes.astype(np.float32) * np.float32(scale)
    valid = heat >= 0
    if target.invalid is not None:
        valid &= planes != target.invalid
    if heat.max(initial=0, where=valid) > _HIGHEST_HEAT:
        raise ValueError(
            f"Expected heat maps from 0 to 1 with `scale` {scale:g}, but got {heat[valid].max():g}."
        )
    smooth = np.stack([_bilinear(plane, size) for plane in np.where(valid, heat, 0).transpose(2, 0, 1)])
    return np.where(nearest(valid, size).transpose(2, 0, 1), smooth, -1).astype(np.float16, order="C")


# i4: what Pillow made of a 16-bit PNG before it had a mode for it
_HEAT_SCALE = {"u1": 1 / 255, "u2": 1 / 65535, "i4": 1 / 65535}


def _bilinear(plane: np.ndarray, size: Size) -> np.ndarray:
    if plane.shape == size:
        return plane
    return np.asarray(
        Image.fromarray(np.ascontiguousarray(plane)).resize(size[::-1], Image.Resampling.BILINEAR)
    )


DECODERS: Mapping[type, Callable[[np.ndarray, Any, Size], np.ndarray]] = {
    SegmentationColumn: _decode_segmentation,
    DepthColumn: _decode_depth,
    NormalsColumn: _decode_normals,
    EdgesColumn: _decode_edges,
    KeypointsColumn: _decode_keypoints,
}
"""By kind of description: from stored values ``(H, W, channels)`` to the target at the wanted size."""
