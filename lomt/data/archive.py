"""What an archive would write where it does not belong. Nothing is unpacked here."""

import stat
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from lomt.errors import DataError

__all__ = ["find_escapes", "is_archive"]


def is_archive(path: Path) -> bool:
    """Return whether a path is a zip or tar file."""
    return path.is_file() and (zipfile.is_zipfile(path) or tarfile.is_tarfile(path))


def find_escapes(path: Path) -> tuple[str, ...]:
    """List the members that would be written outside the folder that an archive is unpacked in.

    These are absolute paths, paths that go up too far, and links that lead out.

    Args:
        path: A zip or tar file, compressed or not.

    Returns:
        A sentence for each such member.

    Raises:
        DataError: If the archive cannot be read.
    """
    try:
        members = list(_zip_members(path) if zipfile.is_zipfile(path) else _tar_members(path))
    except (OSError, EOFError, zipfile.BadZipFile, tarfile.TarError) as error:
        raise DataError(f"Expected {path} to be a whole archive, but got: {error}") from error
    found = []
    for name, link in members:
        if _leaves(name):
            found.append(f"`{name}` would be written outside the folder")
        elif link is not None and _leaves(link, PurePosixPath(name.replace("\\", "/")).parent):
            found.append(f"`{name}` is a link to `{link}`, outside the folder")
    return tuple(found)


def _zip_members(path: Path) -> Iterator[tuple[str, str | None]]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            is_link = stat.S_ISLNK(member.external_attr >> 16)
            yield member.filename, archive.read(member).decode(errors="replace") if is_link else None


def _tar_members(path: Path) -> Iterator[tuple[str, str | None]]:
    with tarfile.open(path) as archive:
        for member in archive:
            if member.islnk():
                yield member.name, f"/{member.linkname}" if _leaves(member.linkname) else None
            else:
                yield member.name, member.linkname if member.issym() else None


def _leaves(name: str, folder: PurePosixPath | None = None) -> bool:
    """Return whether a path, taken from a folder of the archive, leads out of the archive's root."""
    name = name.replace("\\", "/")
    if name.startswith("/") or name[1:2] == ":":
        return True
    depth = 0
    for part in (*(folder.parts if folder else ()), *PurePosixPath(name).parts):
        depth += -1 if part == ".." else 1
        if depth < 0:
            return True
    return False
