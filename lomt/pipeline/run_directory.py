"""One folder a run: what each stage wrote, and whether it is still what the recipe asks for."""

import hashlib
import json
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lomt.atomic_file import write_text_atomically
from lomt.errors import ArtifactError
from lomt.recipe import Recipe

__all__ = ["RunDirectory", "StageFolder", "key_of", "read_json"]

_STAMP = "stage.json"


class RunDirectory:
    """The artefacts of one recipe.

    Args:
        path: The folder; made when it is not there.
        recipe: The resolved recipe.
        heading: Comment lines with versions and data for the stored recipe.

    Raises:
        ArtifactError: If the folder belongs to another recipe or is no run directory at all.
    """

    def __init__(self, path: Path, recipe: Recipe, heading: str, *, is_writer: bool = True) -> None:
        self.path = path
        stored = path / "recipe.yaml"
        if stored.exists():
            _check_owner(stored, recipe.name)
        elif path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ArtifactError(
                f"Expected {path} to be a run directory or an empty one, but it holds something else. "
                "Choose another with --out."
            )
        if is_writer:
            path.mkdir(parents=True, exist_ok=True)
            content = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
            write_text_atomically(stored, heading + content)

    def find_json(self, stage: str, name: str) -> dict[str, Any] | None:
        """Return an artefact of a finished stage, or None where it is not there."""
        path = self.path / stage / name
        return read_json(path) if _is_stamped_finished(path.parent) and path.exists() else None


class StageFolder:
    """The artefacts of one stage with the key of the settings they were made for.

    ``stage.json`` holds that key and, once the stage is done, what its last attempt took: seconds since the
    folder was asked for, and the most memory that the process, or any one that it started, has held so far,
    earlier stages included. Neither enters a key.

    Args:
        path: The folder.
        key: Hash of everything that the result depends on.
        is_writer: False in all processes but one.
    """

    def __init__(self, path: Path, key: str, is_writer: bool = True) -> None:
        self.path, self._key, self._is_writer = path, key, is_writer
        self._began = time.monotonic()

    @property
    def is_finished(self) -> bool:
        """Whether the stage has run to its end with these settings."""
        stamp = _stamp(self.path)
        return stamp.get("key") == self._key and bool(stamp.get("finished"))

    def prepare(self) -> None:
        """Make the folder, or empty it when it holds what other settings made."""
        if not self._is_writer or _stamp(self.path).get("key") == self._key:
            return
        if self.path.exists():
            shutil.rmtree(self.path)
        self.path.mkdir(parents=True)
        self._write_stamp(finished=False)

    def finish(self) -> None:
        """Note that the stage is done and what that took, and drop its checkpoints."""
        self.drop_checkpoints()
        self._write_stamp(
            finished=True,
            seconds_of_last_attempt=round(time.monotonic() - self._began, 3),
            peak_memory_bytes=_peak_memory_bytes(),
        )

    def drop_checkpoints(self) -> None:
        """Delete the checkpoints, and halves of files that a killed process left; no training may be running."""
        if self._is_writer:
            for pattern in ("*.checkpoint", ".*.partial"):
                for file in self.path.rglob(pattern):
                    file.unlink()

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write an artefact whole or not at all."""
        if self._is_writer:
            write_text_atomically(self.path / name, json.dumps(content, indent=2) + "\n")

    def read_json(self, name: str) -> dict[str, Any]:
        """Read an artefact back.

        Raises:
            ArtifactError: If it is missing or damaged.
        """
        return read_json(self.path / name)

    def _write_stamp(self, **facts: Any) -> None:
        self.write_json(_STAMP, {"key": self._key, **facts})


def _stamp(folder: Path) -> dict[str, Any]:
    path = folder / _STAMP
    return read_json(path) if path.exists() else {}


def _is_stamped_finished(folder: Path) -> bool:
    return bool(_stamp(folder).get("finished"))


def _peak_memory_bytes() -> int | None:
    try:
        import resource
    except ModuleNotFoundError:  # Windows keeps no such record
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * max(
        resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )


def key_of(*parts: Any) -> str:
    """Return a hash of plain values, the same in every process."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """Read a stage's artefact.

    Raises:
        ArtifactError: If it is missing or damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ArtifactError(
            f"Expected {path}, but there is no such file. Run the stage before again."
        ) from error
    except json.JSONDecodeError as error:
        raise ArtifactError(f"{path} is damaged ({error}). Delete it and run its stage again.") from error
    if not isinstance(content, dict):
        raise ArtifactError(f"Expected {path} to hold a JSON object, but got {type(content).__name__}.")
    return content


def _check_owner(stored: Path, name: str) -> None:
    try:
        content = yaml.safe_load(stored.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ArtifactError(f"{stored} is damaged ({error}). Choose another directory with --out.") from error
    owner = content.get("name") if isinstance(content, dict) else None
    if owner != name:
        raise ArtifactError(
            f"Expected {stored.parent} to belong to recipe `{name}`, but it belongs to `{owner}`. "
            "Choose another directory with --out."
        )
