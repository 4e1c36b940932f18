"""What lies in a dataset's folder, and nothing that a link puts there from elsewhere."""

import os
from pathlib import Path

from lomt.errors import DataError

__all__ = ["names_in", "subfolders", "within"]


def within(root: Path, path: Path) -> bool:
    """Return whether a path, with all its symbolic links followed, lies in a folder or is it.

    Args:
        root: The folder.
        path: What may lead elsewhere; it need not exist.
    """
    real_root = os.path.realpath(root)
    real = os.path.realpath(path)
    return real == real_root or real.startswith(real_root.rstrip(os.sep) + os.sep)


def names_in(root: Path, folder: str, *, folders: bool = False) -> list[str]:
    """List the files (or the folders) in a folder of a dataset, sorted; hidden ones are left out.

    The folder is read once. A symbolic link is followed only as far as the dataset's own folder.

    Args:
        root: The dataset's folder.
        folder: Path of the folder below it; ``"."`` for the root itself.
        folders: Whether folders are listed instead of files.

    Returns:
        Names; none where there is no such folder.

    Raises:
        DataError: If the folder or an entry leads out of the root, or a name is not UTF-8.
    """
    place = root / folder
    if not place.is_dir():
        return []
    if not within(root, place):
        raise DataError(_leaving(place, root))
    names = []
    with os.scandir(place) as entries:
        for entry in entries:
            if entry.name.startswith(".") or entry.is_dir() != folders:
                continue
            _check_entry(root, entry)
            names.append(entry.name)
    return sorted(names)


def subfolders(root: Path, folder: str = ".") -> list[str]:
    """List the folders in a folder of a dataset, sorted; see `names_in`."""
    return names_in(root, folder, folders=True)


def _check_entry(root: Path, entry: "os.DirEntry[str]") -> None:
    if not entry.name.isprintable():
        try:
            entry.name.encode()
        except UnicodeEncodeError:
            name, folder = os.fsencode(entry.name), Path(entry.path).parent
            raise DataError(
                f"Expected names in UTF-8 in {folder}, but got {name!r}. Rename the file."
            ) from None
    if entry.is_symlink() and not within(root, Path(entry.path)):
        raise DataError(_leaving(Path(entry.path), root))


def _leaving(path: Path, root: Path) -> str:
    return (
        f"Expected {path} to stay inside {root}, but it leads to {os.path.realpath(path)}. "
        "Copy what the link points to, or give the folder that holds both."
    )
