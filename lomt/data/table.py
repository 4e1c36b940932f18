"""The table of a folder dataset: a CSV kept as columns, and all that can be wrong in it found at once."""

import csv
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, islice
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int8, Int32

from lomt.data.inside import within
from lomt.data.plain_csv import plain_columns
from lomt.errors import DataError, UnknownNameError

__all__ = ["Findings", "Table", "check_files", "class_indices", "label_vectors", "numbers", "read_table"]

_CHUNK = 512  # rows; few enough to stay in the processor's cache and out of the garbage collector's sight
_OUTSIDE = re.compile(rb"^[/\\]|^[A-Za-z]:|(?:^|[/\\])\.\.(?:[/\\]|$)")


@dataclass
class Findings:
    """What is wrong in a table; keeps the first ten, counts all.

    Args:
        path: The table's file, for the message.
    """

    path: Path
    most: int = 10
    count: int = 0
    shown: list[str] = field(default_factory=list)

    def add(self, line: int, column: str | None, text: str) -> None:
        """Note one mistake, at a line of the file as an editor counts them."""
        self.count += 1
        if len(self.shown) < self.most:
            place = f"line {line}" if column is None else f"line {line}, column `{column}`"
            self.shown.append(f"{place}: {text}")

    def add_unknown(self, line: int, column: str, name: str, classes: Sequence[str]) -> None:
        """Note a name that is not among the classes; the nearest is looked up only for the ones shown."""
        is_shown = len(self.shown) < self.most
        self.add(line, column, str(UnknownNameError("class", name, classes)) if is_shown else "")

    def raise_any(self) -> None:
        """Raise one `DataError` with all that was noted, if there is any."""
        if not self.count:
            return
        count = f"{self.count} problem" + ("s" if self.count != 1 else "")
        more = f"; the first {self.most} are" if self.count > self.most else ""
        raise DataError("\n".join([f"{self.path} has {count}{more}:", *(f"  {text}" for text in self.shown)]))


@dataclass(frozen=True)
class Table:
    """Columns of a CSV file.

    Args:
        path: The file.
        columns: Cells in UTF-8 by column name, as NumPy byte strings ``(rows,)``: a tenth of the memory of a
            list of strings, and shared by forked processes.
        lines: Number of the line on which each row ends, ``(rows,)``.
    """

    path: Path
    columns: Mapping[str, np.ndarray]
    lines: np.ndarray

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.lines)

    def rows(self, column: str) -> Iterator[tuple[int, bytes]]:
        """Iterate over line number and cell of a column."""
        return zip(self.lines.tolist(), self.columns[column].tolist(), strict=True)


def read_table(path: Path, wanted: Mapping[str, str]) -> Table:
    """Read some columns of a CSV file with a header line; blank lines are skipped.

    Args:
        path: The CSV file, UTF-8.
        wanted: By column name, the key of the description that names it.

    Raises:
        DataError: If the file is missing, is not CSV in UTF-8, lacks a column or has rows of another length.
    """
    if not path.is_file():
        raise DataError(f"Expected a table of samples at {path}, but there is none. Its name is `samples`.")
    findings = Findings(path)
    parts: dict[str, list[np.ndarray]] = {column: [np.empty(0, "S1")] for column in wanted}
    lines: list[int] = []
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, strict=True, skipinitialspace=True)
        try:
            header = next(reader, [])
            position = _positions(header, wanted, findings)
            plain = (
                plain_columns(path, len(header), list(position.values())) if reader.line_num == 1 else None
            )
            if plain is not None and '"' not in "".join(header):
                count = len(plain[0]) if plain else 0
                return Table(path, dict(zip(position, plain, strict=True)), np.arange(2, count + 2))
            for rows in _chunks(reader, len(header), lines, findings):
                cells = list(zip(*rows, strict=True))
                for column, at in position.items():
                    parts[column].append(np.array(list(map(str.encode, cells[at]))))
        except (csv.Error, UnicodeDecodeError) as error:
            place = f"{path} to be CSV in UTF-8, but got near line {max(1, reader.line_num)}"
            raise DataError(f"Expected {place}: {error}") from error
    findings.raise_any()
    columns = {column: np.concatenate(part) for column, part in parts.items()}
    return Table(path, columns, np.array(lines, np.int64))


def _positions(header: Sequence[str], wanted: Mapping[str, str], findings: Findings) -> dict[str, int]:
    """Return where the wanted columns are; missing ones and ones that stand twice end the reading."""
    names = [name.strip() for name in header]
    for column, key in wanted.items():
        if column not in names:
            unknown = UnknownNameError("column", column, names)
            findings.add(1, None, f"{unknown} It is asked for by `{key}` of the description.")
        elif names.count(column) > 1:
            findings.add(1, column, "Expected a column's name once, but got it twice.")
    findings.raise_any()
    return {column: names.index(column) for column in wanted}


def _chunks(
    reader: Iterator[list[str]], width: int, lines: list[int], findings: Findings
) -> Iterator[list[list[str]]]:
    """Yield the rows, some hundred at once, and note the line on which each ends."""
    end = reader.line_num  # type: ignore[attr-defined]  # of csv.reader
    while rows := list(islice(reader, _CHUNK)):
        start, end = end, reader.line_num  # type: ignore[attr-defined]
        ends: Sequence[int] = range(start + 1, end + 1)
        if len(ends) != len(rows):  # line breaks between quotation marks
            heights = [1 + sum(cell.count("\n") for cell in row) for row in rows]
            ends = list(accumulate(heights, initial=start))[1:]
        if set(map(len, rows)) != {width}:
            rows, ends = _complete(rows, ends, width, findings)
        lines.extend(ends)
        if rows:
            yield rows


def _complete(
    rows: list[list[str]], ends: Sequence[int], width: int, findings: Findings
) -> tuple[list[list[str]], list[int]]:
    """Leave out blank lines, and rows of another length, which are noted."""
    for row, line in zip(rows, ends, strict=True):
        if row and len(row) != width:
            findings.add(line, None, f"Expected {width} cells as in the header, but got {len(row)}.")
    whole = [i for i, row in enumerate(rows) if len(row) == width]
    return [rows[i] for i in whole], [ends[i] for i in whole]


def check_files(table: Table, column: str, root: Path, findings: Findings, *, is_required: bool) -> None:
    """Note the paths of a column that leave the root or do not exist.

    Every folder is listed once, instead of asking for every file: a million files take seconds on a network
    disk, too. Neither the paths' text nor a symbolic link may lead out of the root.

    Args:
        table: The table.
        column: Its column of paths relative to ``root``; an empty cell is a sample without this file.
        root: The dataset's folder.
        findings: Where mistakes are noted.
        is_required: Whether an empty cell is a mistake.
    """
    listed: set[bytes] = set()
    known: set[bytes] = set()
    leaving: set[bytes] = set()
    for row, cell in enumerate(table.columns[column].tolist()):
        if cell in known:
            continue
        folder = cell[: cell.rfind(b"/") + 1]
        if folder not in listed:
            listed.add(folder)
            _list(root, folder, known, leaving)
            if cell in known:
                continue
        line = int(table.lines[row])
        if not cell:
            if is_required:
                findings.add(line, column, "Expected the path of a file, but the cell is empty.")
        elif _OUTSIDE.search(cell) or cell in leaving or folder in leaving:
            findings.add(line, column, f"Expected a path inside {root}, but got `{cell.decode()}`.")
        else:
            findings.add(line, column, f"Expected a file `{cell.decode()}` in {root}, but there is none.")


def _list(root: Path, folder: bytes, known: set[bytes], leaving: set[bytes]) -> None:
    """Add what is in a folder to ``known``, or to ``leaving`` where a link leads out of the root."""
    if _OUTSIDE.search(folder):
        return
    place = os.path.join(os.fsencode(root), folder)  # noqa: PTH118  # bytes, not Path
    if not within(root, Path(os.fsdecode(place))):
        leaving.add(folder)
        return
    try:
        with os.scandir(place) as entries:
            for entry in entries:
                is_inside = not entry.is_symlink() or within(root, Path(os.fsdecode(entry.path)))
                (known if is_inside else leaving).add(folder + entry.name)
    except (FileNotFoundError, NotADirectoryError):
        pass


def class_indices(
    table: Table, column: str, classes: Sequence[str], findings: Findings
) -> Int32[np.ndarray, " rows"]:
    """Turn class names into indices.

    Args:
        table: The table.
        column: Its column of class names; an empty cell is no label.
        classes: The names, in index order.
        findings: Where mistakes are noted.

    Returns:
        Integers ``(rows,)``, -1 where there is no label.
    """
    index = {name.encode(): i for i, name in enumerate(classes)} | {b"": -1}
    indices = np.array([index.get(cell, -2) for cell in table.columns[column].tolist()], np.int32)
    for row in np.flatnonzero(indices == -2).tolist():
        findings.add_unknown(int(table.lines[row]), column, table.columns[column][row].decode(), classes)
    return indices


def label_vectors(
    table: Table, columns: Sequence[str], classes: Sequence[str] | None, findings: Findings
) -> Int8[np.ndarray, "rows labels"]:
    """Turn multi-label cells into vectors of 0 and 1.

    Args:
        table: The table.
        columns: Either one column with label names between ``|`` (then ``classes`` are given) or one column
            for each label, with 0 or 1 or, without label, an empty cell.
        classes: All label names where there is one column of names, otherwise ``None``.
        findings: Where mistakes are noted.

    Returns:
        int8 ``(rows, labels)``, -1 where there is no label.
    """
    if classes is not None:
        return _named_labels(table, columns[0], classes, findings)
    value = {b"0": 0, b"1": 1, b"": -1}
    vectors = np.empty((len(table), len(columns)), np.int8)
    for label, column in enumerate(columns):
        vectors[:, label] = [value.get(cell, -2) for cell in table.columns[column].tolist()]
        for row in np.flatnonzero(vectors[:, label] == -2).tolist():
            cell = table.columns[column][row].decode()
            findings.add(int(table.lines[row]), column, f"Expected 0, 1 or an empty cell, but got `{cell}`.")
    return vectors


def _named_labels(table: Table, column: str, classes: Sequence[str], findings: Findings) -> np.ndarray:
    index = {name.encode(): i for i, name in enumerate(classes)}
    vectors = np.zeros((len(table), len(classes)), np.int8)
    for row, (line, cell) in enumerate(table.rows(column)):
        for name in cell.split(b"|") if cell else ():
            label = index.get(name.strip())
            if label is None:
                findings.add_unknown(line, column, name.decode().strip(), classes)
            else:
                vectors[row, label] = 1
    return vectors


def numbers(table: Table, columns: Sequence[str], findings: Findings) -> Float32[np.ndarray, "rows columns"]:
    """Turn cells into numbers.

    Args:
        table: The table.
        columns: One column for each number; an empty cell is no label.
        findings: Where mistakes are noted.

    Returns:
        float32 ``(rows, columns)``, NaN where there is no label.
    """
    values = [_column_numbers(table, column, findings) for column in columns]
    return np.stack(values, axis=1).astype(np.float32)


def _column_numbers(table: Table, column: str, findings: Findings) -> np.ndarray:
    cells = table.columns[column]
    values = np.full(len(cells), np.nan)
    try:
        values[cells != b""] = cells[cells != b""].astype(np.float64)
    except ValueError:  # which cell it is, takes longer to say
        values = np.array([_number(cell) for cell in cells.tolist()], np.float64)
    for row in np.flatnonzero(np.isinf(values)).tolist():
        cell = table.columns[column][row].decode()
        findings.add(
            int(table.lines[row]), column, f"Expected a finite number or an empty cell, but got `{cell}`."
        )
    return values


def _number(cell: bytes) -> float:
    """Return a cell's number; NaN without one, infinity where it is not a finite number."""
    try:
        return float(cell) if cell else float("nan")
    except ValueError:
        return float("inf")
