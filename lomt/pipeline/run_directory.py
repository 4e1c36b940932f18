"""One folder a run: what each stage wrote, and whether it is still what the recipe asks for."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lomt.errors import ArtifactError
from lomt.recipe import Recipe

__all__ = ["RunDirectory", "StageFolder", "key_of", "write_text"]

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
            write_text(stored, heading + content)

    def find_json(self, stage: str, name: str) -> dict[str, Any] | None:
        """Return an artefact of a finished stage, or None where it is not there."""
        path = self.path / stage / name
        return _read_json(path) if _is_stamped_finished(path.parent) and path.exists() else None


class StageFolder:
    """The artefacts of one stage with the key of the settings they were made for.

    Args:
        path: The folder.
        key: Hash of everything that the result depends on.
        is_writer: False in all processes but one.
    """

    def __init__(self, path: Path, key: str, is_writer: bool = True) -> None:
        self.path, self._key, self._is_writer = path, key, is_writer

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
        self._write_stamp(is_finished=False)

    def finish(self) -> None:
        """Note that the stage is done, and drop its checkpoints."""
        if self._is_writer:
            for checkpoint in self.path.rglob("*.checkpoint"):
                checkpoint.unlink()
            self._write_stamp(is_finished=True)

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write an artefact whole or not at all."""
        if self._is_writer:
            write_text(self.path / name, json.dumps(content, indent=2) + "\n")

    def read_json(self, name: str) -> dict[str, Any]:
        """Read an artefact back.

        Raises:
            ArtifactError: If it is missing or damaged.
        """
        return _read_json(self.path / name)

    def _write_stamp(self, is_finished: bool) -> None:
        write_text(self.path / _STAMP, json.dumps({"key": self._key, "finished": is_finished}) + "\n")


def _stamp(folder: Path) -> dict[str, Any]:
    path = folder / _STAMP
    return _read_json(path) if path.exists() else {}


def _is_stamped_finished(folder: Path) -> bool:
    return bool(_stamp(folder).get("finished"))


def key_of(*parts: Any) -> str:
    """Return a hash of plain values, the same in every process."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _read_json(path: Path) -> dict[str, Any]:
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


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


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
