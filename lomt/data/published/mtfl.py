r"""Faces with everything in one text file, as MTFL has it: ``training.txt``, ``testing.txt`` and the images.

A line is the image's path (with ``\`` or ``/``), the x of five landmarks, their y, and gender, smile, glasses and
head pose as numbers from 1.

References:
    Facial Landmark Detection by Deep Multi-task Learning, Zhang, Luo, Loy, Tang, 2014,
    https://doi.org/10.1007/978-3-319-10599-4_7; http://mmlab.ie.cuhk.edu.hk/projects/TCDCN.html.
"""

from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from lomt.data.decode import UNREADABLE
from lomt.data.inside import names_in
from lomt.data.published.collection import Collection, FileImages, LabelTarget
from lomt.data.published.fingerprint import fingerprint_of
from lomt.data.published.text_file import read_lines
from lomt.data.sample import Split, TargetSpec
from lomt.errors import DataError

__all__ = ["ANSWERS", "collect", "recognise"]

ANSWERS = {
    "gender": ("male", "female"),
    "smile": ("smiling", "not smiling"),
    "glasses": ("wearing glasses", "no glasses"),
    "pose": ("left profile", "left", "frontal", "right", "right profile"),
}
"""Classes of each attribute, in the order of their numbers."""

_FILES: dict[Split, str] = {"train": "training.txt", "test": "testing.txt"}
_LANDMARKS = 5
_COLUMNS = 1 + 2 * _LANDMARKS + len(ANSWERS)


def recognise(root: Path) -> bool:
    """Return whether a folder has this layout."""
    return all((root / name).is_file() for name in _FILES.values())


def collect(root: Path) -> Collection:
    """Open the folder.

    Targets: ``landmarks`` (regression of ten numbers: x and y of left eye, right eye, nose, left and right
    corner of the mouth, as fractions of the image's width and height), and the classifications ``gender``,
    ``smile``, ``glasses``, ``pose``. A mirrored or cropped image would need other landmarks and another pose:
    do not augment with either.

    Raises:
        DataError: With the line, if a list is not as described, or names an image that leads elsewhere.
    """
    paths: list[str] = []
    rows: list[list[float]] = []
    splits: dict[Split, np.ndarray] = {}
    for split, name in _FILES.items():
        first = len(paths)
        for line, text in enumerate(read_lines(root, name, f"lists the samples of split `{split}`"), 1):
            if text.strip():
                path, values = _parsed(text, f"line {line} of {root / name}")
                paths.append(path)
                rows.append(values)
        splits[split] = np.arange(first, len(paths))
    for folder in {str(PurePosixPath(path).parent) for path in paths}:
        names_in(root, folder)  # nothing may lead elsewhere
    images = FileImages(root, np.array([path.encode() for path in paths] or [b""])[: len(paths)])
    numbers = np.array(rows, np.float32).reshape(-1, _COLUMNS - 1)
    spec = TargetSpec("landmarks", "regression", channels=2 * _LANDMARKS)
    labels = {"landmarks": LabelTarget(spec, _fractions(images, numbers))}
    for column, (name, classes) in enumerate(ANSWERS.items(), 2 * _LANDMARKS):
        target = TargetSpec(name, "classification", classes=classes)
        labels[name] = LabelTarget(target, numbers[:, column].astype(np.int32) - 1)
    return Collection(
        name="mtfl",
        root=root,
        ids=images.paths,
        splits=splits,
        images=images,
        dense={},
        labels=labels,
        main=tuple(labels),
        fingerprint=fingerprint_of(
            "mtfl", images.paths, splits, tuple(root / name for name in _FILES.values())
        ),
    )


def _parsed(text: str, place: str) -> tuple[str, list[float]]:
    """Return a line's path and numbers."""
    cells = text.split()
    if len(cells) != _COLUMNS:
        raise DataError(f"Expected {_COLUMNS} cells in {place}, but got {len(cells)}.")
    path = cells[0].replace("\\", "/")
    if path.startswith("/") or ":" in path or ".." in path.split("/"):
        raise DataError(f"Expected a path inside the dataset's folder in {place}, but got `{cells[0]}`.")
    try:
        values = [float(cell) for cell in cells[1:]]
    except ValueError as error:
        raise DataError(f"Expected numbers in {place}, but got: {error}.") from error
    if not np.isfinite(values).all():
        raise DataError(f"Expected finite numbers in {place}, but got `{text.strip()}`.")
    for value, (name, classes) in zip(values[2 * _LANDMARKS :], ANSWERS.items(), strict=True):
        if value not in range(1, len(classes) + 1):
            raise DataError(f"Expected {name} from 1 to {len(classes)} in {place}, but got {value:g}.")
    return path, values


def _fractions(images: FileImages, values: np.ndarray) -> np.ndarray:
    """Divide landmarks by the images' sizes; NaN, no label, where an image cannot be opened."""
    fractions = np.full((len(values), 2 * _LANDMARKS), np.nan, np.float32)
    for row in range(len(values)):
        try:
            with Image.open(images.path(row)) as image:  # its header only
                size = np.array(image.size, np.float32)
        except UNREADABLE:
            continue  # reported when the image is read
        points = np.stack([values[row, :_LANDMARKS], values[row, _LANDMARKS : 2 * _LANDMARKS]], axis=1)
        fractions[row] = ((points + 0.5) / size).ravel()
    return fractions
