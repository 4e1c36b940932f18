"""Sorted positions as a short text: `0-31,40,42-63`."""

import re
from collections.abc import Iterator, Sequence
from itertools import groupby

__all__ = ["format_runs", "parse_runs"]

MOST = 10_000_000
"""Largest position that is read: more than any layer has, and small enough to fit in memory."""

_RUN = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?")


def format_runs(positions: Sequence[int]) -> str:
    """Write positions as runs.

    Example:
        >>> format_runs((0, 1, 2, 5, 7, 8))
        '0-2,5,7-8'

    Args:
        positions: Strictly increasing, at least 0.
    """
    runs = []
    for _, entries in groupby(enumerate(positions), key=lambda entry: entry[1] - entry[0]):
        run = [position for _, position in entries]
        runs.append(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}")
    return ",".join(runs)


def parse_runs(text: str) -> tuple[int, ...]:
    """Read the result of :func:`format_runs`.

    Raises:
        ValueError: The text is none, or its positions do not increase.
    """
    return tuple(_positions(text))


def _positions(text: str) -> Iterator[int]:
    last = -1
    for run in text.split(",") if text else ():
        match = _RUN.fullmatch(run)
        first = int(match[1]) if match else -1
        end = int(match[2]) if match and match[2] else first
        if match is None or first <= last or end < first or end > MOST:
            raise ValueError(f"Expected increasing positions such as 0-31,40, but got {_shortened(text)}.")
        yield from range(first, end + 1)
        last = end


def _shortened(text: str, most: int = 40) -> str:
    return text if len(text) <= most else f"{text[:most]}..."
