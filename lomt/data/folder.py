"""A dataset in a folder: a description, a table of samples, and the files it names."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lomt.data.columns import ClassificationColumn, DenseColumn, MultilabelColumn, TargetColumn
from lomt.data.decode import UNREADABLE, Size, decode_image, decode_target, reason, without_label
from lomt.data.description import Description, read_description
from lomt.data.sample import IMAGE, Sample, Split, TargetSpec
from lomt.data.splits import check_arguments, split_rows
from lomt.data.table import Findings, Table, check_files, class_indices, label_vectors, numbers, read_table
from lomt.errors import DataError, UnknownNameError

__all__ = ["FolderDataset", "open_folder"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class FolderDataset:
    """The samples of one split of a folder dataset; made by `open_folder`.

    Args:
        name: Name from the description.
        root: The folder.
        targets: What every sample has.
        fingerprint: Hash of the description and the table (not of the files the table names).
        size: Height and width of all samples, in pixels; None for each image's own.
        image_column: Column of the images.
        files: How to read each dense target, by name.
        labels: Values of each target that stands in the table itself, ``(rows, ...)``, by name.
        table: The rows of this split.
    """

    name: str
    root: Path
    targets: Mapping[str, TargetSpec]
    fingerprint: str
    size: Size | None
    image_column: str
    files: Mapping[str, DenseColumn]
    labels: Mapping[str, np.ndarray]
    table: Table

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.table)

    def sample(self, index: int) -> Sample:
        """Read and decode one sample.

        Args:
            index: From 0 to ``len(self) - 1``, in the table's order.

        Returns:
            The image and all targets; depth float32, normals (within 0.03 degrees) and heat maps float16, the
            others integers. A target whose cell is empty has no label anywhere.

        Raises:
            IndexError: If there is no such sample.
            DataError: If a file is damaged or not as described; names file, line and column.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"Expected `index` to be from 0 to {len(self) - 1}, but got {index}.")
        path = self.root / self._cell(self.image_column, index)
        try:
            image, stored = decode_image(path, self.size)
        except UNREADABLE as error:
            raise self._unreadable(path, self.image_column, index, error) from error
        sample = {IMAGE: image}
        for name in self.targets:
            if name in self.labels:
                sample[name] = self.labels[name][index, ...]
            else:
                sample[name] = self._dense(name, index, self.size or stored, stored)
        return sample

    def place(self, index: int) -> str:
        """Say where a sample stands: file and line of the table."""
        return f"{self.table.path.name} line {self.table.lines[index]}"

    def _dense(self, name: str, index: int, size: Size, image_size: Size) -> np.ndarray:
        target = self.files[name]
        cell = self._cell(target.column, index)
        if not cell:
            return without_label(self.targets[name], size)
        try:
            return decode_target(self.root / cell, target, size, image_size)
        except UNREADABLE as error:
            raise self._unreadable(self.root / cell, target.column, index, error) from error

    def _cell(self, column: str, index: int) -> str:
        cell: bytes = self.table.columns[column][index]
        return cell.decode()

    def _unreadable(self, path: Path, column: str, index: int, error: Exception) -> DataError:
        return DataError(f"{path} ({self.place(index)}, column `{column}`): {reason(error)}")


def open_folder(
    root: str | Path,
    split: Split,
    *,
    size: Size | None,
    targets: Sequence[str] | None = None,
    validation_fraction: float = 0.0,
    seed: int = 0,
) -> FolderDataset:
    """Open one split of a folder dataset and check its description, its table and that all its files exist.

    Args:
        root: Folder with a ``dataset.yaml``; `Description` tells what stands in it.
        split: Which samples.
        size: Height and width of the decoded samples, in pixels; None keeps each image's own, which is of use
            for checks but not in batches.
        targets: Names of the targets to read, in order; all by default.
        validation_fraction: Share of the train samples, from 0 to below 1, that is held out for validation
            (at least one sample where it is above 0). A dataset with a validation split of its own is not
            touched.
        seed: Decides which samples are held out.

    Raises:
        ValueError: If an argument is out of its range.
        UnknownNameError: If the dataset has no such target.
        DataError: With everything that is wrong in the description, or in the table.
    """
    root = Path(root)
    check_arguments(size, validation_fraction, seed)
    description_path = root / "dataset.yaml"
    description = read_description(description_path)
    chosen = _chosen(description, targets)
    table = read_table(root / description.samples, _wanted(description, chosen))
    labels = _check_table(table, root, description, chosen)
    rows = split_rows(table, description, split, validation_fraction, seed)
    files = {name: target for name, target in chosen.items() if isinstance(target, DenseColumn)}
    columns = {description.image.column, *(target.column for target in files.values())}
    kept = Table(table.path, {c: table.columns[c][rows] for c in columns}, table.lines[rows])
    logger.info("%s: %d of %d rows are %s", description.name, len(rows), len(table), split)
    return FolderDataset(
        name=description.name,
        root=root,
        targets={name: target.spec(name) for name, target in chosen.items()},
        fingerprint=_fingerprint(description_path, table.path),
        size=None if size is None else (size[0], size[1]),
        image_column=description.image.column,
        files=files,
        labels={name: values[rows] for name, values in labels.items()},
        table=kept,
    )


def _chosen(description: Description, names: Sequence[str] | None) -> dict[str, TargetColumn]:
    for name in names or ():
        if name not in description.targets:
            raise UnknownNameError(f"target of dataset {description.name}", name, description.targets)
    return {name: description.targets[name] for name in (description.targets if names is None else names)}


def _wanted(description: Description, chosen: Mapping[str, TargetColumn]) -> dict[str, str]:
    """Return the table's columns that are needed, each with the key that asks for it."""
    wanted = {description.image.column: "image.column"}
    if description.splits is not None:
        wanted.setdefault(description.split_column, "split_column")
    for name, target in chosen.items():
        for column in target.columns:
            wanted.setdefault(column, f"targets.{name}")
    return wanted


def _check_table(
    table: Table, root: Path, description: Description, chosen: Mapping[str, TargetColumn]
) -> dict[str, np.ndarray]:
    """Check all cells of all splits; return the values of the targets that stand in the table itself."""
    findings = Findings(table.path)
    check_files(table, description.image.column, root, findings, is_required=True)
    labels = {}
    for name, target in chosen.items():
        if isinstance(target, DenseColumn):
            check_files(table, target.column, root, findings, is_required=False)
        elif isinstance(target, ClassificationColumn):
            labels[name] = class_indices(table, target.column, target.classes, findings)
        elif isinstance(target, MultilabelColumn):
            names = target.classes if target.column is not None else None
            labels[name] = label_vectors(table, target.columns, names, findings)
        else:
            labels[name] = numbers(table, target.columns, findings)
    findings.raise_any()
    return labels


def _fingerprint(*paths: Path) -> str:
    digest = hashlib.sha256()
    for path in paths:
        content = path.read_bytes()
        digest.update(len(content).to_bytes(8, "big"))
        digest.update(content)
    return digest.hexdigest()
