"""CSV without quotation marks, cut by array operations: several times as fast as by the csv module."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

__all__ = ["plain_columns"]

_BLOCK = 1 << 20
"""Bytes cut at once: few enough to stay in the processor's cache."""
_COMMA, _NEWLINE = ord(","), ord("\n")


def plain_columns(path: Path, width: int, positions: list[int]) -> list[Shaped[np.ndarray, " rows"]] | None:
    """Read columns of a CSV file in which every row is one line of the same number of cells.

    Args:
        path: The file, with a header line.
        width: Number of columns.
        positions: Which columns are wanted, from 0.

    Returns:
        The cells of each as byte strings ``(rows,)``; None where the file has quotation marks, blank lines, rows
        of another length, cells that begin with a blank, or anything but UTF-8: the csv module has the last word.
    """
    parts: list[list[np.ndarray]] = [[np.empty(0, "S1")] for _ in positions]
    for block in _blocks(path):
        columns = _cut(block, width, positions)
        if columns is None:
            return None
        for part, column in zip(parts, columns, strict=True):
            part.append(column)
    return [np.concatenate(part) for part in parts]


def _blocks(path: Path) -> Iterator[bytes]:
    """Yield the file after its first line in blocks of whole lines that end with a newline."""
    with path.open("rb") as file:
        file.readline()
        rest = b""
        while block := file.read(_BLOCK):
            end = block.rfind(b"\n") + 1
            if end:
                yield (rest + block[:end]).replace(b"\r\n", b"\n")
                rest = block[end:]
            else:
                rest += block
        if rest:
            yield rest + b"\n"


def _cut(block: bytes, width: int, positions: list[int]) -> list[np.ndarray] | None:
    if any(mark in block for mark in (b'"', b"\0", b"\r", b", ", b"\n ")) or block.startswith(b" "):
        return None
    if not _is_utf8(block):
        return None
    data = np.frombuffer(block, np.uint8)
    ends = np.flatnonzero((data == _COMMA) | (data == _NEWLINE)).astype(np.int32)
    rows = block.count(b"\n")
    if len(ends) != rows * width:
        return None
    table = ends.reshape(rows, width)
    if not (data[table[:, -1]] == _NEWLINE).all():
        return None
    starts = np.empty_like(ends)
    starts[0] = 0
    starts[1:] = ends[:-1] + 1
    begins = starts.reshape(rows, width)
    if width == 1 and (table == begins).any():  # a blank line
        return None
    padded = np.append(data, np.zeros(int((table - begins).max()), np.uint8))
    return [_gathered(padded, begins[:, at], table[:, at]) for at in positions]


def _gathered(data: np.ndarray, begins: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Copy cells of any lengths into one array, filled up with zeros."""
    lengths = ends - begins
    longest = max(int(lengths.max()), 1)
    offsets = np.arange(longest, dtype=np.int32)
    cells = data[begins[:, None] + offsets]
    if int(lengths.min()) != longest:
        cells[offsets >= lengths[:, None]] = 0
    return cells.view(f"S{longest}")[:, 0]


def _is_utf8(block: bytes) -> bool:
    if block.isascii():
        return True
    try:
        block.decode()
    except UnicodeDecodeError:
        return False
    return True
