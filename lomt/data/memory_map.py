"""Decoded and resized samples in memory-mapped files: read without decoding, shared by all processes."""

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from lomt.checksum import sha256_of
from lomt.data.sample import IMAGE, Dataset, Sample, TargetSpec
from lomt.data.verify import Progress, find_damage, require_whole
from lomt.errors import DataError

__all__ = ["INDEX", "MappedDataset", "open_map", "write_map"]

INDEX = "cache.json"
_SCHEMA = 1
_REMEDY = "Remove the folder and write it again with `lomt data cache`."


class MappedDataset:
    """The samples that `write_map` wrote; made by `open_map`. Other processes map the files anew.

    Args:
        folder: Where the files are.
        index: What they hold, as `write_map` noted it.
    """

    def __init__(self, folder: Path, index: Mapping[str, Any]) -> None:
        self.folder = folder
        self._index = index
        self.name: str = index["name"]
        self.fingerprint: str = index["fingerprint"]
        self.targets: Mapping[str, TargetSpec] = {
            name: TargetSpec(**{**spec, "classes": tuple(spec["classes"])})
            for name, spec in index["targets"].items()
        }
        self._arrays = {
            name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            for name in (IMAGE, *self.targets)
        }
        # plain views: indexing a memmap costs several times as much
        self._views = {name: np.asarray(array) for name, array in self._arrays.items()}

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what another process needs: the place, not the content."""
        return MappedDataset, (self.folder, self._index)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._views[IMAGE])

    def sample(self, index: int) -> Sample:
        """Return a sample: read-only views of the mapped files.

        Args:
            index: From 0 to ``len(self) - 1``.

        Raises:
            IndexError: If there is no such sample.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"Expected `index` to be from 0 to {len(self) - 1}, but got {index}.")
        return {name: view[index, ...] for name, view in self._views.items()}


def write_map(
    dataset: Dataset, folder: Path, *, threads: int = 2, progress: Progress | None = None
) -> MappedDataset:
    """Decode every sample once and write all of them, whole or not at all.

    Written are an NPY file for the image and for each target, and ``cache.json`` with name, fingerprint, targets
    and the SHA-256 of every file. They are written to a folder beside the one wanted, which is then renamed.

    Args:
        dataset: Where samples come from; all of one size.
        folder: A folder that is not there yet.
        threads: How many samples are decoded at once.
        progress: Told of every sample.

    Raises:
        DataError: If the folder is there, a sample is damaged, or samples differ in shape.
    """
    if folder.exists():
        raise DataError(f"Expected no {folder} yet, because a cache is to be written there. {_REMEDY}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
    try:
        arrays: dict[str, np.ndarray] = {}

        def store(index: int, sample: Sample) -> None:
            """Put a sample into its place."""
            for name, value in sample.items():
                if name not in arrays:
                    shape = (len(dataset), *value.shape)
                    path = str(partial / f"{name}.npy")
                    arrays[name] = np.lib.format.open_memmap(path, "w+", dtype=value.dtype, shape=shape)
                target = arrays[name]
                if value.shape != target.shape[1:] or value.dtype != target.dtype:
                    raise DataError(
                        f"Expected `{name}` of all samples to be {target.dtype} of {target.shape[1:]}, "
                        f"but sample {index} is {value.dtype} of {value.shape}."
                    )
                target[index] = value

        damages = find_damage(
            dataset, threads=threads, visit=store, progress=progress, description=f"caching {dataset.name}"
        )
        require_whole(dataset, damages)
        for array in arrays.values():
            array.flush()  # type: ignore[attr-defined]  # of np.memmap
        index = {
            "schema": _SCHEMA,
            "name": dataset.name,
            "fingerprint": dataset.fingerprint,
            "targets": {name: asdict(spec) for name, spec in dataset.targets.items()},
            "sha256": {f"{name}.npy": sha256_of(partial / f"{name}.npy") for name in arrays},
        }
        (partial / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        partial.chmod(0o755)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return open_map(folder, check=False)


def open_map(folder: Path, dataset: Dataset | None = None, *, check: bool = True) -> MappedDataset:
    """Open what `write_map` wrote.

    Args:
        folder: The folder.
        dataset: What the cache has to be of: the same samples, size and at least the same targets.
        check: Whether the files' checksums are compared.

    Raises:
        DataError: If the cache is missing, incomplete, damaged or of something else.
    """
    index = _read_index(folder)
    for name, checksum in index["sha256"].items():
        path = folder / name
        if not path.is_file():
            raise DataError(f"Expected {path} to be there, because {INDEX} lists it. {_REMEDY}")
        if check and sha256_of(path) != checksum:
            raise DataError(
                f"Expected {path} to have the checksum that {INDEX} gives, but it differs. {_REMEDY}"
            )
    try:
        mapped = MappedDataset(folder, index)
    except (ValueError, OSError, TypeError, KeyError) as error:
        raise DataError(f"Expected {folder} to hold a whole cache, but got: {error}. {_REMEDY}") from error
    if dataset is not None:
        _check_same(mapped, dataset)
    return mapped


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / INDEX
    if not path.is_file():
        raise DataError(f"Expected a cache with {path}, but there is none. Write one with `lomt data cache`.")
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        schema = index["schema"]
        names = set(index["sha256"])
        if not {f"{name}.npy" for name in (IMAGE, *index["targets"])} == names:
            raise ValueError("the files listed are not those of its targets")
        if any("/" in name or "\\" in name for name in names):
            raise ValueError("a file listed is elsewhere")
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"Expected {path} to list a cache's files, but got: {error}. {_REMEDY}") from error
    if schema != _SCHEMA:
        raise DataError(f"Expected schema {_SCHEMA} in {path}, but got {schema}. {_REMEDY}")
    return dict(index)


def _check_same(mapped: MappedDataset, dataset: Dataset) -> None:
    """Compare with the dataset: one decoded sample tells size and targets."""
    place = f"the cache in {mapped.folder}"
    if mapped.fingerprint != dataset.fingerprint or len(mapped) != len(dataset):
        raise DataError(
            f"Expected {place} to be of {dataset.name} as it is now, but it is of other data. {_REMEDY}"
        )
    for name, spec in dataset.targets.items():
        if mapped.targets.get(name) != spec:
            raise DataError(f"Expected target `{name}` in {place} as in {dataset.name}. {_REMEDY}")
    size = getattr(dataset, "size", None)
    found = mapped.sample(0)[IMAGE].shape[:2]
    if size is not None and found != tuple(size):
        raise DataError(
            f"Expected {place} to be of size {size[0]}x{size[1]}, but it is {found[0]}x{found[1]}. {_REMEDY}"
        )
