"""Files that are whole or as they were before, whenever the power goes or the disk is full."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

__all__ = ["write_atomically", "write_text_atomically"]

_Result = TypeVar("_Result")


def write_atomically(path: Path, write: Callable[[Path], _Result]) -> _Result:
    """Write a file under another name beside it, flush it to the disk, and only then put it in its place.

    Where that fails the old file stays and nothing new is left behind; a killed process may leave
    ``.<name>.*.partial``. Processes that write the same file at once each put a whole one in place.

    Args:
        path: Of the file; its folder is made if it is not there. All may read the file, its owner write it.
        write: Writes the content to the path given.

    Returns:
        What ``write`` returned.

    Raises:
        OSError: If the content cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    os.close(handle)
    partial = Path(name)
    try:
        result = write(partial)
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.chmod(0o644)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return result


def write_text_atomically(path: Path, text: str) -> None:
    """Write a file of text as :func:`write_atomically` does, in UTF-8.

    Args:
        path: Of the file.
        text: The whole content.
    """
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))
