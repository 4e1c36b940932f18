"""NYU-Depth v2 in its official file, ``nyu_depth_v2_labeled.mat``: an HDF5 file as MATLAB writes it.

MATLAB stores arrays column by column: an image of 480x640 stands in HDF5 as ``(3, 640, 480)``, a map as
``(640, 480)``.

References:
    https://cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html (file, split, toolbox with the camera's intrinsics).
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from lomt.data.columns import DepthColumn, EdgesColumn, NormalsColumn, SegmentationColumn
from lomt.data.decode import Size, fit_image
from lomt.data.inside import within
from lomt.data.plane_normals import Camera
from lomt.data.published.collection import Collection, LabelTarget, StoredTarget, looked_up
from lomt.data.published.derived import EdgesOfLabels, NormalsOfDepth
from lomt.data.published.fingerprint import fingerprint_of
from lomt.data.published.nyuv2_classes import (
    CLASSES_13,
    CLASSES_40,
    COUNT,
    NAMED_40,
    label_table,
    official_test,
)
from lomt.data.sample import Split, TargetSpec
from lomt.errors import DataError

__all__ = ["CAMERA", "FILE", "SPLITS", "collect", "find_file"]

FILE, SPLITS = "nyu_depth_v2_labeled.mat", "splits.mat"
CAMERA = Camera(fx=518.857901, fy=519.469611, cx=325.582449, cy=253.736166, size=(480, 640))
"""The colour camera, in whose frame depth is given."""

_SHAPES = {"images": 4, "depths": 3, "labels": 3}
_HINT = "It comes with `pip install lomt[nyuv2]`."


@dataclass(eq=False)
class MatFile:
    """Arrays of an HDF5 file, opened anew in every process that reads it.

    Args:
        path: The file.
    """

    path: Path
    _open: tuple[int, Any] | None = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs."""
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take up where another process left."""
        self.__init__(state["path"])  # type: ignore[misc]

    def row(self, name: str, row: int) -> np.ndarray:
        """Read one image's part of an array."""
        values: np.ndarray = self.file[name][row]  # h5py lets one thread at a time in, and minds forks
        return values

    @property
    def file(self) -> Any:
        """The open file."""
        if self._open is None or self._open[0] != os.getpid():
            h5py = _h5py()
            try:
                self._open = os.getpid(), h5py.File(self.path, "r")
            except OSError as error:
                raise DataError(
                    f"Expected {self.path} to be the HDF5 file of NYU-Depth v2, but it cannot be opened: {error}. "
                    "Download it again."
                ) from error
        return self._open[1]


@dataclass(frozen=True, eq=False)
class MatImages:
    """Images of the file.

    Args:
        mat: The file.
    """

    mat: MatFile

    def __call__(self, row: int, size: Size | None) -> tuple[np.ndarray, Size]:
        """Read an image."""
        return fit_image(Image.fromarray(np.ascontiguousarray(self.mat.row("images", row).T)), size)

    def place(self, row: int) -> str:
        """Name file, array and image, from 1."""
        return f"{self.mat.path}, `images` {row + 1}"


@dataclass(frozen=True, eq=False)
class MatTarget:
    """A map of the file.

    Args:
        mat: The file.
        array: Name of the array.
        classes: By stored label, the class to take in its place; None takes the stored values.
    """

    mat: MatFile
    array: Literal["depths", "rawDepths", "labels"]
    classes: np.ndarray | None = None

    def __call__(self, row: int, size: Size) -> np.ndarray:
        """Read a map."""
        stored = self.mat.row(self.array, row).T
        return stored if self.classes is None else looked_up(stored, self.classes)

    def place(self, row: int) -> str:
        """Name file, array and image, from 1."""
        return f"{self.mat.path}, `{self.array}` {row + 1}"


def find_file(path: Path) -> Path | None:
    """Return the official file at a path or in a folder; None if there is none."""
    for file in (path, path / FILE):
        if file.is_file() and file.suffix == ".mat" and file.name != SPLITS:
            return file
    return None


def collect(path: Path) -> Collection:
    """Open the official file; the split is `splits.mat` beside it, else the one that is built in.

    Targets: ``segmentation13``, ``segmentation37``, ``segmentation40``, ``segmentation894`` (label 0 is none),
    ``depth`` (in-painted), ``depth_raw`` (where the file has it), ``normals`` and ``edges`` (derived from depth
    and from the 894 labels), ``scene``.

    Args:
        path: The file or its folder.

    Raises:
        DataError: If the file is of another kind, or there is no split for its images.
    """
    file = find_file(path)
    if file is None:
        raise DataError(f"Expected {FILE} at {path}, but there is none.")
    if path.is_dir() and not within(path, file):
        raise DataError(f"Expected {file} to stay inside {path}, but it leads elsewhere.")
    mat = MatFile(file)
    count = _check(mat)
    names = _texts(mat, "names")
    ids = np.array([f"{row + 1:04d}".encode() for row in range(count)])
    splits = _splits(file.parent / SPLITS, file, count)
    depth = MatTarget(mat, "depths")
    dense = {f"segmentation{n}": _segmentation(mat, n) for n in (13, NAMED_40, 40)}
    dense["segmentation894"] = StoredTarget(
        SegmentationColumn(
            kind="segmentation", column="labels", classes=_distinct(names), first_index=1, ignore_index=0
        ),
        MatTarget(mat, "labels"),
    )
    dense["depth"] = StoredTarget(DepthColumn(kind="depth", column="depths"), depth)
    if "rawDepths" in mat.file:
        raw = MatTarget(mat, "rawDepths")
        dense["depth_raw"] = StoredTarget(DepthColumn(kind="depth", column="rawDepths"), raw)
    normals = NormalsColumn(kind="normals", column="depths")
    dense["normals"] = StoredTarget(normals, NormalsOfDepth(depth, CAMERA))
    edges = EdgesColumn(kind="edges", column="labels", ignore_index=-1)
    dense["edges"] = StoredTarget(edges, EdgesOfLabels(MatTarget(mat, "labels"), 0))
    scenes = _texts(mat, "sceneTypes") if "sceneTypes" in mat.file else []
    labels = {"scene": _scene(scenes)} if len(scenes) == count else {}
    return Collection(
        name="nyuv2",
        root=file.parent,
        ids=ids,
        splits=splits,
        images=MatImages(mat),
        dense=dense,
        labels=labels,
        main=("segmentation13", "segmentation40", "depth", "normals", "edges", *labels),
        fingerprint=fingerprint_of(f"nyuv2 {file.stat().st_size}", ids, splits),
    )


def _segmentation(mat: MatFile, classes: int) -> StoredTarget:
    names = CLASSES_13 if classes == 13 else CLASSES_40[:classes]
    column = SegmentationColumn(
        kind="segmentation", column="labels", classes=list(names), first_index=1, ignore_index=0
    )
    return StoredTarget(column, MatTarget(mat, "labels", label_table(classes)))


def _check(mat: MatFile) -> int:
    """Check that the arrays are there, in shape and in the file itself; return the number of images."""
    h5py = _h5py()
    missing = [name for name in (*_SHAPES, "names") if name not in mat.file]
    if missing:
        found = ", ".join(sorted(mat.file)[:10]) or "nothing"
        raise DataError(
            f"Expected {mat.path} to be the HDF5 file of NYU-Depth v2 with {', '.join(missing)}, but it has {found}."
        )
    for name in mat.file:
        link = mat.file.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink) or getattr(mat.file[name], "external", None):
            raise DataError(f"Expected `{name}` to be in {mat.path} itself, but it leads to another place.")
    count = mat.file["images"].shape[0]
    for name, dimensions in (*_SHAPES.items(), ("rawDepths", 3)):
        if name not in mat.file:
            continue
        array = mat.file[name]
        if array.ndim != dimensions or array.shape[0] != count:
            raise DataError(
                f"Expected `{name}` of {mat.path} to have {dimensions} dimensions and {count} images, "
                f"but got {array.shape}."
            )
    images = mat.file["images"]
    if images.dtype != np.uint8 or images.shape[1] != 3:
        raise DataError(
            f"Expected `images` of {mat.path} to be uint8 of ({count}, 3, width, height), "
            f"but got {images.dtype} of {images.shape}."
        )
    return int(count)


def _texts(mat: MatFile, name: str) -> list[str]:
    """Read a MATLAB cell array of texts: references to arrays of UTF-16 codes."""
    references = np.asarray(mat.file[name]).ravel()
    return ["".join(map(chr, np.asarray(mat.file[reference]).ravel())) for reference in references]


def _distinct(names: list[str]) -> list[str]:
    """Number names that stand twice."""
    seen: dict[str, int] = {}
    distinct = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        distinct.append(name if seen[name] == 1 else f"{name} {seen[name]}")
    return distinct


def _scene(scenes: list[str]) -> LabelTarget:
    classes = tuple(sorted(set(scenes)))
    index = {name: i for i, name in enumerate(classes)}
    values = np.array([index[scene] for scene in scenes], np.int32)
    return LabelTarget(TargetSpec("scene", "classification", classes=classes), values)


def _splits(path: Path, file: Path, count: int) -> dict[Split, np.ndarray]:
    """Read the split beside the file; without one the official split, which fits the official images only."""
    if path.is_file():
        return _read_splits(path, count)
    if count != COUNT:
        raise DataError(
            f"Expected a split at {path}, because {file} has {count} images and not the official {COUNT}, "
            "but there is none."
        )
    is_test = official_test()
    return {"train": np.flatnonzero(~is_test), "test": np.flatnonzero(is_test)}


def _read_splits(path: Path, count: int) -> dict[Split, np.ndarray]:
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise DataError(f"Expected scipy to be installed, because {path} needs it. {_HINT}") from error
    names: dict[Split, str] = {"train": "trainNdxs", "test": "testNdxs"}
    try:
        content = loadmat(path)
        splits = {
            split: np.asarray(content[name]).ravel().astype(np.int64) - 1 for split, name in names.items()
        }
    except KeyError as error:
        raise DataError(f"Expected `trainNdxs` and `testNdxs` in {path}, but there is no {error}.") from error
    except Exception as error:  # whatever scipy makes of a damaged file
        raise DataError(f"Expected {path} to be a MATLAB file with the split, but got: {error}") from error
    for split, rows in splits.items():
        if len(rows) and not 0 <= rows.min() <= rows.max() < count:
            raise DataError(
                f"Expected `{names[split]}` of {path} to be from 1 to {count}, "
                f"but got {rows.min() + 1} to {rows.max() + 1}."
            )
    if np.intersect1d(splits["train"], splits["test"]).size:
        raise DataError(f"Expected `trainNdxs` and `testNdxs` of {path} to have no image in common.")
    return splits


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise DataError(f"Expected h5py to be installed, because NYU-v2's file is HDF5. {_HINT}") from error
    return h5py
