"""Text files of a dataset, read whole."""

from pathlib import Path

from lomt.data.inside import within
from lomt.errors import DataError

__all__ = ["read_lines"]


def read_lines(root: Path, name: str, why: str) -> list[str]:
    """Read the lines of a text file, without the empty ones at its end.

    Args:
        root: The dataset's folder.
        name: Path of the file below it.
        why: What the file says, for the message that it is missing.

    Raises:
        DataError: If the file is missing, leads out of the folder or is not UTF-8.
    """
    path = root / name
    if not within(root, path):
        raise DataError(f"Expected {path} to stay inside {root}, but it leads elsewhere.")
    if not path.is_file():
        raise DataError(f"Expected a file {path}, which {why}, but there is none.")
    try:
        return path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"Expected {path} to be text in UTF-8, but got: {error}") from error
