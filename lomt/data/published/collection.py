"""What a dataset as published offers: samples in rows, how to read each target, which rows are a split."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from lomt.data.columns import DenseColumn
from lomt.data.decode import UNREADABLE, Size, decode_image, decode_stored, read_array, reason
from lomt.data.sample import IMAGE, Sample, Split, TargetSpec
from lomt.data.splits import check_arguments, held_out
from lomt.errors import DataError, UnknownNameError

__all__ = [
    "Collection",
    "FileImages",
    "FileTarget",
    "ImageReader",
    "LabelTarget",
    "PublishedDataset",
    "StoredTarget",
    "TargetReader",
]


@runtime_checkable
class ImageReader(Protocol):
    """The map from a row to its image."""

    def __call__(self, row: int, size: Size | None) -> tuple[np.ndarray, Size]:
        """Return uint8 ``(H, W, 3)`` of the size wanted, and the stored height and width."""

    def place(self, row: int) -> str:
        """Name the file, and where in it, for messages."""


@runtime_checkable
class TargetReader(Protocol):
    """The map from a row to a dense target's stored values."""

    def __call__(self, row: int, size: Size) -> np.ndarray:
        """Return the values as stored, of any size; ``size`` is what they will be resized to."""

    def place(self, row: int) -> str:
        """Name the file, and where in it, for messages."""


@dataclass(frozen=True, eq=False)
class FileImages:
    """Images that are files.

    Args:
        root: The dataset's folder.
        paths: Path of each below it, ``(rows,)`` byte strings in UTF-8.
    """

    root: Path
    paths: np.ndarray

    def __call__(self, row: int, size: Size | None) -> tuple[np.ndarray, Size]:
        """Read an image."""
        return decode_image(self.path(row), size)

    def path(self, row: int) -> Path:
        """Return a file's path."""
        path: bytes = self.paths[row]
        return self.root / path.decode()

    def place(self, row: int) -> str:
        """Return a file's path for messages."""
        return str(self.path(row))


@dataclass(frozen=True, eq=False)
class FileTarget:
    """A dense target of one file a sample.

    Args:
        root: The dataset's folder.
        paths: Path of each below it, ``(rows,)`` byte strings in UTF-8.
        classes: By stored integer, the value to take in its place; None takes the stored values.
    """

    root: Path
    paths: np.ndarray
    classes: np.ndarray | None = None

    def __call__(self, row: int, size: Size) -> np.ndarray:
        """Read a file, and look its values up."""
        stored = read_array(self.path(row))
        return stored if self.classes is None else looked_up(stored, self.classes)

    def path(self, row: int) -> Path:
        """Return a file's path."""
        path: bytes = self.paths[row]
        return self.root / path.decode()

    def place(self, row: int) -> str:
        """Return a file's path for messages."""
        return str(self.path(row))


def looked_up(stored: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Replace integers by what a table says.

    Raises:
        ValueError: If a value is no integer or beyond the table.
    """
    if stored.dtype.kind not in "ui":
        raise ValueError(f"Expected integer labels, but got dtype {stored.dtype}.")
    wrong = (stored < 0) | (stored >= len(classes))
    if wrong.any():
        raise ValueError(
            f"Expected labels from 0 to {len(classes) - 1}, "
            f"but got {int(stored[wrong][0])} in {int(wrong.sum())} pixels."
        )
    values: np.ndarray = classes[stored]
    return values


@dataclass(frozen=True)
class StoredTarget:
    """A dense target: where its values are and how they are to be understood.

    Args:
        column: How; its column is of no meaning here.
        read: Where.
    """

    column: DenseColumn
    read: TargetReader


@dataclass(frozen=True, eq=False)
class LabelTarget:
    """A target with one answer a sample.

    Args:
        spec: The target.
        values: In its convention, ``(rows, ...)``.
    """

    spec: TargetSpec
    values: np.ndarray


@dataclass(frozen=True, eq=False)
class Collection:
    """All samples of a dataset as published.

    Args:
        name: Of the dataset.
        root: Its folder.
        ids: What identifies each sample in messages, ``(rows,)`` byte strings.
        splits: Rows of each split, by name.
        images: How to read the images.
        dense: Dense targets by name.
        labels: Other targets by name.
        main: Targets taken where none are asked for; the others are variants of them.
        fingerprint: Hexadecimal hash that changes when the samples may have changed.
    """

    name: str
    root: Path
    ids: np.ndarray
    splits: Mapping[Split, np.ndarray]
    images: ImageReader
    dense: Mapping[str, StoredTarget]
    labels: Mapping[str, LabelTarget] = field(default_factory=dict)
    main: Sequence[str] = ()
    fingerprint: str = ""

    @property
    def targets(self) -> dict[str, TargetSpec]:
        """All targets by name."""
        dense = {name: target.column.spec(name) for name, target in self.dense.items()}
        return dense | {name: target.spec for name, target in self.labels.items()}

    def rows(self, split: Split, validation_fraction: float = 0.0, seed: int = 0) -> np.ndarray:
        """Return the rows of a split; see `lomt.data.open_folder` for the validation split.

        Raises:
            DataError: If there is no such split, or it is empty.
        """
        has_validation = "validation" in self.splits
        source: Split = "train" if split == "validation" and not has_validation else split
        known = ", ".join(f"`{name}`" for name in self.splits)
        if source not in self.splits:
            raise DataError(f"Expected a `{source}` split of {self.name} in {self.root}, but got {known}.")
        rows = self.splits[source]
        if not has_validation and source == "train":
            is_held = held_out(len(rows), validation_fraction, seed)
            rows = rows[is_held if split == "validation" else ~is_held]
        if not len(rows):
            hint = " Give `validation_fraction` above 0." if split == "validation" else ""
            raise DataError(
                f"Expected samples in split `{split}` of {self.name} in {self.root}, but it is empty.{hint}"
            )
        return rows

    def split(
        self,
        split: Split,
        *,
        size: Size | None,
        targets: Sequence[str] | None = None,
        validation_fraction: float = 0.0,
        seed: int = 0,
    ) -> "PublishedDataset":
        """Return one split as a dataset; the arguments are those of `lomt.data.open_folder`.

        Raises:
            ValueError: If an argument is out of its range.
            UnknownNameError: If the dataset has no such target.
            DataError: If there is no such split, or it is empty.
        """
        check_arguments(size, validation_fraction, seed)
        known = self.targets
        for name in targets or ():
            if name not in known:
                raise UnknownNameError(f"target of dataset {self.name}", name, known)
        chosen = {name: known[name] for name in (self.main if targets is None else targets)}
        rows = self.rows(split, validation_fraction, seed)
        return PublishedDataset(self, rows, chosen, None if size is None else (size[0], size[1]))


@dataclass(frozen=True, eq=False)
class PublishedDataset:
    """The samples of one split of a dataset as published; made by `Collection.split`.

    Args:
        collection: All of the dataset.
        rows: Rows of the split, ``(samples,)``.
        targets: What every sample has.
        size: Height and width of all samples, in pixels; None for each image's own.
    """

    collection: Collection
    rows: np.ndarray
    targets: Mapping[str, TargetSpec]
    size: Size | None

    @property
    def name(self) -> str:
        """Name of the dataset."""
        return self.collection.name

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the dataset."""
        return self.collection.fingerprint

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.rows)

    def place(self, index: int) -> str:
        """Name a sample for messages."""
        return f"sample {self.collection.ids[self.rows[index]].decode()}"

    def sample(self, index: int) -> Sample:
        """Read and decode one sample; see `lomt.data.FolderDataset.sample`.

        Args:
            index: From 0 to ``len(self) - 1``.

        Raises:
            IndexError: If there is no such sample.
            DataError: If a file is damaged or not as published; names file, sample and target.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"Expected `index` to be from 0 to {len(self) - 1}, but got {index}.")
        row = int(self.rows[index])
        images = self.collection.images
        try:
            image, stored = images(row, self.size)
        except UNREADABLE as error:
            raise self._unreadable(images, IMAGE, index, error) from error
        sample = {IMAGE: image}
        for name in self.targets:
            if name in self.collection.labels:
                sample[name] = self.collection.labels[name].values[row, ...]
            else:
                sample[name] = self._dense(name, index, self.size or stored, stored)
        return sample

    def _dense(self, name: str, index: int, size: Size, image_size: Size) -> np.ndarray:
        target = self.collection.dense[name]
        try:
            values = target.read(int(self.rows[index]), size)
            return decode_stored(values, target.column, size, image_size)
        except UNREADABLE as error:
            raise self._unreadable(target.read, name, index, error) from error

    def _unreadable(
        self, reader: ImageReader | TargetReader, what: str, index: int, error: Exception
    ) -> DataError:
        place = f"{reader.place(int(self.rows[index]))} ({self.place(index)}, `{what}`)"
        return DataError(f"{place}: {reason(error)}")
