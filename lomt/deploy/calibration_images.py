"""Images for an ONNX file from a folder or an npz file, as the file's metadata says that it takes them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image, UnidentifiedImageError

from lomt.deploy.fixed_shape import image_input
from lomt.deploy.onnx_graph import load_network
from lomt.errors import DataError

__all__ = ["SUFFIXES", "load_images", "random_images"]

SUFFIXES: Final = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def load_images(
    source: Path, network: Path, *, count: int, size: tuple[int, int] | None = None
) -> list[np.ndarray]:
    """Read images for a network.

    Args:
        source: A folder of images, or an npz file. Of a folder's images an evenly spaced part in the order of their
            names is taken; they are resized and prepared as the network's metadata says (``lomt.preprocessing``, as
            ``lomt export`` writes it). An npz file holds one array (images, channels, height, width), ready as it is.
        network: The ONNX file.
        count: How many at most.
        size: Height and width where the network leaves them open.

    Returns:
        Each (channels, height, width), float32.

    Raises:
        DataError: There are no images, one cannot be read, or the network does not say how they are prepared.
        ArtifactError: The network cannot be read.
    """
    loaded = load_network(network)
    sizes = [own.dim_value for own in image_input(loaded, str(network)).type.tensor_type.shape.dim[1:]]
    if source.is_file() and source.suffix == ".npz":
        return _from_archive(source, sizes, count)
    if not source.is_dir():
        raise DataError(f"Expected {source} to be a folder of images or an npz file, but there is none.")
    files = sorted(path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise DataError(f"Expected {source} to hold images ({', '.join(SUFFIXES)}), but it holds none.")
    prepare = _preparation({entry.key: entry.value for entry in loaded.metadata_props}, network)
    height_width = _size(sizes, size, network)
    step = max(1.0, len(files) / count)
    chosen = [files[int(number * step)] for number in range(min(count, len(files)))]
    return [_read(path, height_width, prepare) for path in chosen]


def random_images(network: Path, *, count: int, size: tuple[int, int] | None = None) -> list[np.ndarray]:
    """Draw normal images for a network; the same in every process.

    Args:
        network: The ONNX file.
        count: How many.
        size: Height and width where the network leaves them open.

    Raises:
        DataError: The network leaves its size open and none is given.
        ArtifactError: The network cannot be read.
    """
    loaded = load_network(network)
    sizes = [own.dim_value for own in image_input(loaded, str(network)).type.tensor_type.shape.dim[1:]]
    shape = (sizes[0], *_size(sizes, size, network))
    generator = np.random.default_rng(0)
    return [generator.standard_normal(shape, dtype=np.float32) for _ in range(count)]


def _from_archive(source: Path, sizes: list[int], count: int) -> list[np.ndarray]:
    try:
        with np.load(source, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError) as error:
        raise DataError(f"Expected {source} to be an npz file of numbers, but got: {error}.") from error
    if len(arrays) != 1:
        raise DataError(
            f"Expected {source} to hold one array, the images, but got {', '.join(arrays) or 'none'}."
        )
    images = next(iter(arrays.values()))
    fits = images.ndim == len(sizes) + 1 and all(
        size in (0, own) for size, own in zip(sizes, images.shape[1:], strict=True)
    )
    if not fits or not len(images) or not np.isfinite(images).all():
        shape = ", ".join(str(size or "any") for size in sizes)
        raise DataError(
            f"Expected {source} to hold finite images of shape (images, {shape}), but got {images.shape}."
        )
    return [np.ascontiguousarray(image, dtype=np.float32) for image in images[:count]]


def _preparation(metadata: Mapping[str, str], network: Path) -> dict[str, Any]:
    """Return mean, deviation, order and highest value of the images that a file takes."""
    given = json.loads(metadata.get("lomt.preprocessing", "null"))
    if given is None and {"mean", "std"} <= set(metadata):
        given = {name: json.loads(metadata[name]) for name in ("mean", "std")}
    if given is None:
        raise DataError(
            f"Expected `{network}` to say in its metadata how images are prepared, as `lomt export` writes it, but it "
            "does not. Give images that are ready, as an npz file."
        )
    return {"channel_order": "RGB", "highest": 1.0, "is_baked": False, **given}


def _size(sizes: list[int], wanted: tuple[int, int] | None, network: Path) -> tuple[int, int]:
    own = tuple(sizes[1:])
    if len(own) != 2 or sizes[0] not in (0, 3):
        raise DataError(
            f"Expected `{network}` to take images of 3 channels, but got {sizes} without the batch."
        )
    found = tuple(size or wanted_size for size, wanted_size in zip(own, wanted or (0, 0), strict=True))
    if 0 in found:
        raise DataError(
            f"Expected a size for the images of `{network}`, which leaves it open. Give `--input-size HxW`."
        )
    if wanted is not None and found != tuple(wanted):
        raise DataError(
            f"Expected images of {found[0]}x{found[1]} for `{network}`, but got {wanted[0]}x{wanted[1]}."
        )
    return found[0], found[1]


def _read(path: Path, size: tuple[int, int], prepare: Mapping[str, Any]) -> np.ndarray:
    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB").resize((size[1], size[0]), Image.Resampling.BILINEAR)
    except (OSError, UnidentifiedImageError) as error:
        raise DataError(f"Expected {path} to be an image, but got: {error}.") from error
    pixels = np.asarray(image, dtype=np.float32) / 255
    if prepare["is_baked"]:
        ordered = pixels[..., ::-1] if prepare["channel_order"] == "BGR" else pixels
        return np.ascontiguousarray((ordered * prepare["highest"]).transpose(2, 0, 1))
    mean, std = (np.asarray(prepare[name], dtype=np.float32) for name in ("mean", "std"))
    return np.ascontiguousarray(((pixels - mean) / std).transpose(2, 0, 1))
