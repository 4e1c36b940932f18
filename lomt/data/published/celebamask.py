"""CelebAMask-HQ as downloaded: images, one PNG for each part of a face, 40 attributes.

References:
    MaskGAN: Towards Diverse and Interactive Facial Image Manipulation, Lee, Liu, Wu, Luo, 2020,
    https://arxiv.org/abs/1907.11922; https://github.com/switchablenorms/CelebAMask-HQ (order in which the parts
    are painted, split).
    Deep Learning Face Attributes in the Wild, Liu, Luo, Wang, Tang, 2015, https://arxiv.org/abs/1411.7766
    (attributes, the split of the images that these ones come from).
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lomt.data.columns import SegmentationColumn
from lomt.data.decode import Size, read_array
from lomt.data.inside import names_in, subfolders
from lomt.data.published.collection import Collection, FileImages, LabelTarget, StoredTarget, looked_up
from lomt.data.published.fingerprint import fingerprint_of
from lomt.data.published.text_file import read_lines
from lomt.data.sample import Split, TargetSpec
from lomt.errors import DataError

__all__ = ["PARTS", "collect", "recognise"]

_FACE_PARTS = ("skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear")
_MOUTH_PARTS = ("mouth", "u_lip", "l_lip")
PARTS = (*_FACE_PARTS, *_MOUTH_PARTS, "hair", "hat", "ear_r", "neck_l", "neck", "cloth")
"""In the order in which they are painted, a later one over an earlier one; classes 1 to 18, 0 is background."""

_SKIN = (*_FACE_PARTS, *_MOUTH_PARTS, "neck")
_IMAGES, _MASKS = "CelebA-HQ-img", "CelebAMask-HQ-mask-anno"
_ATTRIBUTES, _MAPPING = "CelebAMask-HQ-attribute-anno.txt", "CelebA-HQ-to-CelebA-mapping.txt"
_LISTS = "celebA_datasplit.json"
_FOLDER_SIZE = 2000
_FIRST_VALIDATION, _FIRST_TEST = 162771, 182638


@dataclass(frozen=True, eq=False)
class PartMasks:
    """One PNG for each part that a face has, painted over each other.

    Args:
        root: The dataset's folder.
        numbers: Number of each image, ``(rows,)``.
        classes: Class to take in place of each of the 19; None keeps them.
    """

    root: Path
    numbers: np.ndarray
    classes: np.ndarray | None = None

    def __call__(self, row: int, size: Size) -> np.ndarray:
        """Read and paint the parts."""
        merged = None
        for label, part in enumerate(PARTS, 1):
            path = self._path(row, part)
            try:
                mask = read_array(path)
            except FileNotFoundError:
                continue  # a face without this part
            except (OSError, SyntaxError, ValueError) as error:
                raise ValueError(f"Expected {path.name} to be readable, but got: {error}") from error
            mask = mask[..., 0] if mask.ndim == 3 else mask
            if merged is None:
                merged = np.zeros(mask.shape, np.uint8)
            if mask.shape != merged.shape:
                raise ValueError(
                    f"Expected all parts to be of {merged.shape}, but {path.name} is of {mask.shape}."
                )
            merged[mask > 0] = label
        if merged is None:
            raise ValueError(f"Expected a mask such as {self._path(row, 'skin').name}, but there is none.")
        return merged if self.classes is None else looked_up(merged, self.classes)

    def _path(self, row: int, part: str) -> Path:
        number = int(self.numbers[row])
        return self.root / _MASKS / str(number // _FOLDER_SIZE) / f"{number:05d}_{part}.png"

    def place(self, row: int) -> str:
        """Name the masks' folder and image."""
        return str(self._path(row, "*"))


def recognise(root: Path) -> bool:
    """Return whether a folder has this layout."""
    return (root / _IMAGES).is_dir() and (root / _MASKS).is_dir()


def collect(root: Path) -> Collection:
    """Open the folder.

    Targets: ``segmentation`` (19 classes), ``segmentation3`` (background, skin, hair; skin is the face with all
    that lies on it, ears and neck), ``attributes`` (all 40) and each attribute by its name in small letters
    (``male``, ``smiling``, ...), a multilabel target of one label.

    Splits: ``celebA_datasplit.json`` where there is one (lists ``train``, ``val``, ``test`` of file names), else
    the split of the images in CelebA, by the published mapping file: 24183, 2993 and 2824 images.

    Raises:
        DataError: If the split or the attributes are missing or damaged, or a name leads elsewhere.
    """
    names = [name for name in names_in(root, _IMAGES) if name.endswith(".jpg") and name[:-4].isdecimal()]
    numbers = np.array(sorted(int(name[:-4]) for name in names), np.int64)
    if not len(numbers):
        raise DataError(f"Expected images such as 0.jpg in {root / _IMAGES}, but there are none.")
    for folder in subfolders(root, _MASKS):
        names_in(root, f"{_MASKS}/{folder}")  # nothing may lead elsewhere
    labels = _attributes(root, numbers)
    splits, source = _splits(root, numbers)
    three = np.array([0, *(1 if part in _SKIN else 2 if part == "hair" else 0 for part in PARTS)], np.uint8)
    ids = np.array([f"{number}.jpg".encode() for number in numbers])
    classes = {"segmentation": ["background", *PARTS], "segmentation3": ["background", "skin", "hair"]}
    dense = {
        name: StoredTarget(
            SegmentationColumn(kind="segmentation", column="masks", classes=classes[name]),
            PartMasks(root, numbers, None if name == "segmentation" else three),
        )
        for name in classes
    }
    return Collection(
        name="celebamask",
        root=root,
        ids=ids,
        splits=splits,
        images=FileImages(root, np.array([f"{_IMAGES}/{name.decode()}".encode() for name in ids])),
        dense=dense,
        labels=labels,
        main=("segmentation", "attributes"),
        fingerprint=fingerprint_of("celebamask", ids, splits, (root / source, root / _ATTRIBUTES)),
    )


def _attributes(root: Path, numbers: np.ndarray) -> dict[str, LabelTarget]:
    """Read the attributes: a count, the names, then a line for each image with 1 and -1."""
    path = root / _ATTRIBUTES
    lines = read_lines(root, _ATTRIBUTES, "holds the attributes")
    names = lines[1].split() if len(lines) > 1 else []
    if not names or not lines[0].strip().isdecimal():
        raise DataError(f"Expected {path} to begin with a count and a line of names, but it does not.")
    row_of = {f"{number}.jpg": row for row, number in enumerate(numbers.tolist())}
    values = np.full((len(numbers), len(names)), -1, np.int8)
    for line, text in enumerate(lines[2:], 3):
        name, *cells = text.split()
        if len(cells) != len(names) or not set(cells) <= {"1", "-1"}:
            raise DataError(
                f"Expected {len(names)} values 1 or -1 in line {line} of {path}, but got `{text[:80]}`."
            )
        if (row := row_of.pop(name, None)) is not None:
            values[row] = [cell == "1" for cell in cells]
    if row_of:
        raise DataError(f"Expected a line for image {next(iter(row_of))} in {path}, but there is none.")
    targets = {"attributes": TargetSpec("attributes", "multilabel", classes=tuple(names))}
    found = {"attributes": LabelTarget(targets["attributes"], values)}
    for column, name in enumerate(names):
        spec = TargetSpec(name.lower(), "multilabel", classes=(name,))
        found[name.lower()] = LabelTarget(spec, values[:, column : column + 1])
    return found


def _splits(root: Path, numbers: np.ndarray) -> tuple[dict[Split, np.ndarray], str]:
    if (root / _LISTS).is_file():
        return _listed_splits(root, numbers), _LISTS
    lines = read_lines(root, _MAPPING, "says from which images of CelebA these come, and so their split")
    original = np.full(max(int(numbers.max()) + 1, len(lines)), -1, np.int64)
    for line, text in enumerate(lines[1:], 2):
        cells = text.split()
        if len(cells) != 3 or not (
            cells[0].isdecimal() and cells[1].isdecimal() and int(cells[0]) < len(original)
        ):
            raise DataError(
                f"Expected `number number file` in line {line} of {root / _MAPPING}, but got `{text}`."
            )
        original[int(cells[0])] = int(cells[1])
    own = original[numbers]
    if (own < 0).any():
        missing = int(numbers[own < 0][0])
        raise DataError(f"Expected a line for image {missing} in {root / _MAPPING}, but there is none.")
    return {
        "train": np.flatnonzero(own < _FIRST_VALIDATION),
        "validation": np.flatnonzero((own >= _FIRST_VALIDATION) & (own < _FIRST_TEST)),
        "test": np.flatnonzero(own >= _FIRST_TEST),
    }, _MAPPING


def _listed_splits(root: Path, numbers: np.ndarray) -> dict[Split, np.ndarray]:
    path = root / _LISTS
    row_of = {f"{number}.jpg": row for row, number in enumerate(numbers.tolist())}
    names: dict[Split, str] = {"train": "train", "validation": "val", "test": "test"}
    try:
        lists = json.loads("\n".join(read_lines(root, _LISTS, "lists the splits")))
        return {
            split: np.array([row_of[file] for file in lists[name]], np.int64) for split, name in names.items()
        }
    except (ValueError, TypeError) as error:
        raise DataError(f"Expected {path} to be JSON with lists of file names, but got: {error}") from error
    except KeyError as error:
        raise DataError(
            f"Expected {path} to have the lists train, val and test of images that are there, but not {error}."
        ) from error
