"""A plain folder of images without labels."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from jaxtyping import Int64

from lomt.data.decode import UNREADABLE, Size, decode_image, reason
from lomt.data.inside import names_in, subfolders
from lomt.data.sample import IMAGE, Sample, Split, TargetSpec
from lomt.data.splits import check_arguments, held_out
from lomt.errors import DataError

__all__ = ["IMAGES", "SUFFIXES", "ImageFolder", "image_rows", "is_image_folder", "open_images"]

IMAGES = "images"
"""Name of the layout: images in a folder and in the folders below it, and nothing else."""

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
"""How the names of images end, in small or capital letters."""

_NO_TARGETS: Mapping[str, TargetSpec] = MappingProxyType({})


@dataclass(frozen=True, eq=False)
class ImageFolder:
    """The images of one split of a folder; made by `open_images`.

    Args:
        name: The folder's own name.
        root: The folder.
        paths: Paths of the images below it, with slashes.
        size: Height and width of all samples, in pixels; None for each image's own.
        fingerprint: Hash of the names and sizes in bytes of all images of the folder, whatever their split.
    """

    name: str
    root: Path
    paths: tuple[str, ...]
    size: Size | None
    fingerprint: str

    @property
    def targets(self) -> Mapping[str, TargetSpec]:
        """No targets at all."""
        return _NO_TARGETS

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.paths)

    def sample(self, index: int) -> Sample:
        """Read and decode one image.

        Args:
            index: From 0 to ``len(self) - 1``, in the order of the paths.

        Raises:
            IndexError: If there is no such image.
            DataError: If the file is damaged; names it.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"Expected `index` to be from 0 to {len(self) - 1}, but got {index}.")
        path = self.root / self.paths[index]
        try:
            image, _ = decode_image(path, self.size)
        except UNREADABLE as error:
            raise DataError(f"{path}: {reason(error)}") from error
        return {IMAGE: image}


def open_images(
    root: str | Path,
    split: Split,
    *,
    size: Size | None,
    validation_fraction: float = 0.0,
    test_fraction: float = 0.0,
    seed: int = 0,
) -> ImageFolder:
    """Open one split of a folder of images: those of `SUFFIXES` in it and below it, hidden ones left out.

    Args:
        root: The folder.
        split: Which images; all are ``"train"`` where both fractions are 0.
        size: Height and width of the decoded samples, in pixels; None keeps each image's own.
        validation_fraction: Share of what is left for training that is held out for validation, from 0 to below 1.
        test_fraction: Share of all images that is held out for testing, from 0 to below 1.
        seed: Decides which images are held out.

    Raises:
        ValueError: If an argument is out of its range.
        DataError: If there is no such folder, it has no images, or too few for its splits, or a link leads out of it.
    """
    root = Path(root)
    check_arguments(size, validation_fraction, seed, test_fraction)
    if not root.is_dir():
        raise DataError(f"Expected {root} to be a folder of images, but there is none.")
    paths = sorted(_walk(root, ".", set()))
    if not paths:
        endings = ", ".join(suffix[1:] for suffix in SUFFIXES)
        raise DataError(f"Expected images ({endings}) in {root} or in folders below it, but found none.")
    try:
        rows = image_rows(len(paths), split, validation_fraction, test_fraction, seed)
    except DataError as error:
        raise DataError(f"{root}: {error}") from error
    return ImageFolder(
        name=root.resolve().name or IMAGES,
        root=root,
        paths=tuple(paths[row] for row in rows.tolist()),
        size=None if size is None else (size[0], size[1]),
        fingerprint=_fingerprint(root, paths),
    )


def image_rows(
    count: int, split: Split, validation_fraction: float, test_fraction: float, seed: int
) -> Int64[np.ndarray, " rows"]:
    """Return the positions of a split's images among all, ascending; see `open_images`.

    Raises:
        DataError: If the split, or one that a fraction asks for, would be empty.
    """
    is_test = held_out(count, test_fraction, seed)
    rest = np.flatnonzero(~is_test)
    is_held = held_out(len(rest), validation_fraction, seed)
    rows: dict[Split, np.ndarray] = {
        "train": rest[~is_held],
        "validation": rest[is_held],
        "test": np.flatnonzero(is_test),
    }
    fractions: dict[Split, float] = {"validation": validation_fraction, "test": test_fraction}
    wanted: list[Split] = [split, *(name for name, fraction in fractions.items() if fraction > 0)]
    for name in wanted:
        if not len(rows[name]):
            way_out = (
                "Add images, or hold out less." if fractions.get(name) else f"Give `{name}_fraction` above 0."
            )
            raise DataError(
                f"Expected images for split `{name}`, but of {count} `test_fraction` {test_fraction:g} and "
                f"`validation_fraction` {validation_fraction:g} leave none. {way_out}"
            )
    return rows[split].astype(np.int64)


def is_image_folder(path: Path) -> bool:
    """Return whether a path is a folder with an image in it or below it."""
    return path.is_dir() and next(_walk(path, ".", set()), None) is not None


def _walk(root: Path, folder: str, seen: set[str]) -> Iterator[str]:
    """Yield the paths of images below a folder; a folder to which several links lead is read once."""
    real = os.path.realpath(root / folder)
    if real in seen:
        return
    seen.add(real)
    before = "" if folder == "." else f"{folder}/"
    for name in names_in(root, folder):
        if name.lower().endswith(SUFFIXES):
            yield before + name
    for name in subfolders(root, folder):
        yield from _walk(root, before + name, seen)


def _fingerprint(root: Path, paths: list[str]) -> str:
    digest = hashlib.sha256(IMAGES.encode())
    for path in paths:
        place = root / path
        # a broken link is found with the damaged files
        size = place.stat().st_size if place.is_file() else -1
        digest.update(f"\n{path}\0{size}".encode())
    return digest.hexdigest()
