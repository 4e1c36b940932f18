"""Cityscapes as downloaded: ``leftImg8bit``, ``gtFine`` and ``disparity``, in each a split and in it the cities.

References:
    The Cityscapes Dataset for Semantic Urban Scene Understanding, Cordts, Omran, Ramos, Rehfeld, Enzweiler,
    Benenson, Franke, Roth, Schiele, 2016, https://arxiv.org/abs/1604.01685;
    https://github.com/mcordts/cityscapesScripts (labels, disparity and camera files).
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lomt.data.columns import DepthColumn, SegmentationColumn
from lomt.data.decode import Size, read_array
from lomt.data.inside import names_in, subfolders
from lomt.data.published.collection import Collection, FileImages, FileTarget, StoredTarget
from lomt.data.published.fingerprint import fingerprint_of
from lomt.data.sample import Split
from lomt.errors import DataError

__all__ = ["CLASSES_7", "CLASSES_19", "collect", "recognise"]

CLASSES_19 = (
    *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation"),
    *("terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
)
CLASSES_7 = ("flat", "construction", "object", "nature", "sky", "human", "vehicle")

_NONE = 255
# stored labels of the 19 classes, in class order
_LABELS_19 = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
# first and last stored label of each category
_LABELS_7 = ((7, 10), (11, 16), (17, 20), (21, 22), (23, 23), (24, 25), (26, 33))
_LAST_LABEL = 33
_FOLDERS: dict[Split, str] = {"train": "train", "test": "val"}
_BASELINE_M, _FOCAL_PIXELS = 0.209313, 2262.52
"""Of the rig that recorded most cities; used where there is no folder ``camera``."""


@dataclass(frozen=True, eq=False)
class DisparityDepth:
    """Depth in metres from stored disparity.

    Stored value p, 16 bits: 0 is none, else the disparity is (p - 1) / 256 pixels, and depth is baseline times
    focal length over disparity.

    Args:
        disparity: Where the files are.
        cameras: Where the cameras' files are; None takes one camera for all.
    """

    disparity: FileTarget
    cameras: FileTarget | None

    def __call__(self, row: int, size: Size) -> np.ndarray:
        """Read disparity; 0 where there is none."""
        stored = read_array(self.disparity.path(row))
        if stored.dtype.kind not in "ui" or stored.dtype.itemsize < 2:
            raise ValueError(f"Expected 16-bit disparity, but got dtype {stored.dtype}.")
        disparity = (stored.astype(np.float32) - 1) / 256
        is_known = disparity > 0
        return np.divide(self._scale(row), disparity, out=np.zeros_like(disparity), where=is_known)

    def _scale(self, row: int) -> float:
        if self.cameras is None:
            return _BASELINE_M * _FOCAL_PIXELS
        path = self.cameras.path(row)
        try:
            camera = json.loads(path.read_text(encoding="utf-8"))
            scale = float(camera["extrinsic"]["baseline"]) * float(camera["intrinsic"]["fx"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"Expected {path} to be JSON with extrinsic.baseline and intrinsic.fx."
            ) from error
        return scale

    def place(self, row: int) -> str:
        """Return a file's path for messages."""
        return self.disparity.place(row)


def recognise(root: Path) -> bool:
    """Return whether a folder has this layout."""
    return (root / "leftImg8bit" / "train").is_dir()


def collect(root: Path) -> Collection:
    """Open the folder.

    Targets: ``segmentation`` (19 classes), ``segmentation7`` (categories without void), and ``depth`` (metres)
    where there is a folder ``disparity``; the camera of each image where there is a folder ``camera``.

    Splits: the published train split, and val as test, because the labels of the published test split are not
    public.

    Raises:
        DataError: If there are no images, or a name is unknown or leads elsewhere.
    """
    stems: list[str] = []
    splits: dict[Split, np.ndarray] = {}
    for split, folder in _FOLDERS.items():
        first = len(stems)
        for city in subfolders(root, f"leftImg8bit/{folder}"):
            stems += [f"{folder}/{city}/{stem}" for stem in _stems(root, f"leftImg8bit/{folder}/{city}")]
        splits[split] = np.arange(first, len(stems))
    if not stems:
        raise DataError(
            f"Expected images in {root / 'leftImg8bit'}, but there are none. Unpack the archives."
        )

    def files(folder: str, ending: str, classes: np.ndarray | None = None) -> FileTarget:
        for place in {stem.rpartition("/")[0] for stem in stems}:
            names_in(root, f"{folder}/{place}")  # nothing may lead elsewhere
        return FileTarget(root, np.array([f"{folder}/{stem}_{ending}".encode() for stem in stems]), classes)

    dense = {}
    for name, classes, table in (
        ("segmentation", CLASSES_19, _table_19()),
        ("segmentation7", CLASSES_7, _table_7()),
    ):
        column = SegmentationColumn(
            kind="segmentation", column="gtFine", classes=list(classes), ignore_index=_NONE
        )
        dense[name] = StoredTarget(column, files("gtFine", "gtFine_labelIds.png", table))
    if (root / "disparity").is_dir():
        cameras = files("camera", "camera.json") if (root / "camera").is_dir() else None
        depth = DisparityDepth(files("disparity", "disparity.png"), cameras)
        dense["depth"] = StoredTarget(DepthColumn(kind="depth", column="disparity"), depth)
    ids = np.array([stem.encode() for stem in stems])
    return Collection(
        name="cityscapes",
        root=root,
        ids=ids,
        splits=splits,
        images=FileImages(root, files("leftImg8bit", "leftImg8bit.png").paths),
        dense=dense,
        main=tuple(dense),
        fingerprint=fingerprint_of("cityscapes", ids, splits),
    )


def _stems(root: Path, folder: str) -> list[str]:
    ending = "_leftImg8bit.png"
    return [name.removesuffix(ending) for name in names_in(root, folder) if name.endswith(ending)]


def _table_19() -> np.ndarray:
    table = np.full(_LAST_LABEL + 1, _NONE, np.uint8)
    table[list(_LABELS_19)] = np.arange(len(CLASSES_19))
    return table


def _table_7() -> np.ndarray:
    table = np.full(_LAST_LABEL + 1, _NONE, np.uint8)
    for label, (first, last) in enumerate(_LABELS_7):
        table[first : last + 1] = label
    return table
