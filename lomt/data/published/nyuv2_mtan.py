"""NYU-Depth v2 as prepared for MTAN: ``train|val/{image,label,depth,normal}/<number>.npy``, 288x384, 13 classes.

References:
    End-to-End Multi-Task Learning with Attention, Liu, Johns, Davison, 2019,
    https://arxiv.org/abs/1803.10704, section 5.1.1; https://github.com/lorenmt/mtan.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from lomt.data.columns import DepthColumn, EdgesColumn, NormalsColumn, SegmentationColumn
from lomt.data.decode import Size, fit_image, read_array
from lomt.data.inside import names_in
from lomt.data.published.collection import Collection, FileTarget, StoredTarget
from lomt.data.published.derived import EdgesOfLabels, NormalsOfDepth
from lomt.data.published.fingerprint import fingerprint_of
from lomt.data.published.nyuv2_classes import CLASSES_13
from lomt.data.published.nyuv2_mat import CAMERA
from lomt.data.sample import Split
from lomt.errors import DataError

__all__ = ["FOLDERS", "collect", "recognise"]

FOLDERS: dict[Split, str] = {"train": "train", "test": "val"}
_MAPS = ("label", "depth", "normal")


@dataclass(frozen=True, eq=False)
class FloatImages:
    """Images stored as floats from 0 to 1, ``(H, W, 3)``.

    Args:
        files: Where they are.
    """

    files: FileTarget

    def __call__(self, row: int, size: Size | None) -> tuple[np.ndarray, Size]:
        """Read an image; values are rounded to 8 bits."""
        stored = self.files(row, size or (0, 0))
        if stored.dtype.kind != "f" or stored.ndim != 3 or stored.shape[2] != 3:
            raise ValueError(
                f"Expected floats of shape (height, width, 3), but got {stored.dtype} of {stored.shape}."
            )
        if not (stored.min() >= -0.001 and stored.max() <= 1.001):
            raise ValueError(f"Expected values from 0 to 1, but got {stored.min():g} to {stored.max():g}.")
        return fit_image(Image.fromarray(np.rint(stored.clip(0, 1) * 255).astype(np.uint8)), size)

    def place(self, row: int) -> str:
        """Return a file's path for messages."""
        return self.files.place(row)


@dataclass(frozen=True, eq=False)
class FloatLabels:
    """Labels stored as floats with whole values; -1 is none.

    Args:
        files: Where they are.
    """

    files: FileTarget

    def __call__(self, row: int, size: Size) -> np.ndarray:
        """Read labels as integers."""
        stored = read_array(self.files.path(row))
        labels = stored.astype(np.int16)
        if not np.array_equal(labels, stored):
            raise ValueError("Expected whole numbers as labels, but got fractions.")
        return labels

    def place(self, row: int) -> str:
        """Return a file's path for messages."""
        return self.files.place(row)


def recognise(root: Path) -> bool:
    """Return whether a folder has this layout."""
    return all(
        (root / split / "image").is_dir() and (root / split / "label").is_dir() for split in ("train", "val")
    )


def collect(root: Path) -> Collection:
    """Open the folder; the targets are segmentation, depth, normals and edges (boundaries of the labels).

    Normals are derived from depth where a split has no folder ``normal``.

    Raises:
        DataError: If there are no images, or names are not UTF-8 or lead elsewhere.
    """
    stems: list[str] = []
    splits: dict[Split, np.ndarray] = {}
    for split, folder in FOLDERS.items():
        names = [name[:-4] for name in names_in(root, f"{folder}/image") if name.endswith(".npy")]
        names.sort(key=lambda name: (len(name), name))
        splits[split] = np.arange(len(stems), len(stems) + len(names))
        stems += [f"{folder}/{{}}/{name}.npy" for name in names]
    if not stems:
        raise DataError(f"Expected images in {root / 'train' / 'image'}, but there are none.")
    for folder in (f"{split}/{name}" for split in FOLDERS.values() for name in _MAPS):
        names_in(root, folder)  # nothing may lead elsewhere

    def files(name: str) -> FileTarget:
        return FileTarget(root, np.array([stem.format(name).encode() for stem in stems]))

    labels, depth = FloatLabels(files("label")), files("depth")
    has_normals = all((root / folder / "normal").is_dir() for folder in FOLDERS.values())
    normals = files("normal") if has_normals else NormalsOfDepth(depth, CAMERA)
    segmentation = SegmentationColumn(
        kind="segmentation", column="label", classes=list(CLASSES_13), ignore_index=-1
    )
    edges = EdgesColumn(kind="edges", column="label", ignore_index=-1)
    ids = np.array([stem.format("image").encode() for stem in stems])
    return Collection(
        name="nyuv2_mtan",
        root=root,
        ids=ids,
        splits=splits,
        images=FloatImages(files("image")),
        dense={
            "segmentation": StoredTarget(segmentation, labels),
            "depth": StoredTarget(DepthColumn(kind="depth", column="depth"), depth),
            "normals": StoredTarget(NormalsColumn(kind="normals", column="normal"), normals),
            "edges": StoredTarget(edges, EdgesOfLabels(labels, -1)),
        },
        main=("segmentation", "depth", "normals", "edges"),
        fingerprint=fingerprint_of("nyuv2_mtan", ids, splits),
    )
