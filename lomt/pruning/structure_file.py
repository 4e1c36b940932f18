"""`structure.json` of a pruned model: where it came from and what was done to it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch

from lomt._version import __version__
from lomt.errors import ArtifactError
from lomt.models.factory import Factory
from lomt.pruning.plan import PruningPlan

__all__ = ["KIND", "SCHEMA", "StructureFile", "is_pruned_model", "read_structure", "structure_text"]

SCHEMA = 1
"""Version of the file; one with another version is refused."""

KIND = "pruned"
"""Tells the file apart from that of a model of :mod:`lomt.models`."""

NAME = "structure.json"

_KEYS = {"schema", "kind", "versions", "factory", "tied", "plans", "weights", "sha256"}


@dataclass(frozen=True)
class StructureFile:
    """The content of the file.

    Args:
        factory: What builds the model that the first plan was made for.
        plans: To be applied in order.
        tied: Names of tensors that are another one's, with the name under which it is stored.
        weights_sha256: Checksum of the file with the weights.
        versions: Versions of lomt, torch and timm that wrote it.
    """

    factory: Factory
    plans: tuple[PruningPlan, ...]
    tied: Mapping[str, str]
    weights_sha256: str
    versions: Mapping[str, str]


def structure_text(
    factory: Factory, plans: tuple[PruningPlan, ...], tied: Mapping[str, str], weights: Mapping[str, str]
) -> str:
    """Write the file's text; its own checksum stands last.

    Args:
        factory: As in :class:`StructureFile`.
        plans: As in :class:`StructureFile`.
        tied: As in :class:`StructureFile`.
        weights: Name and checksum of the file with the weights.
    """
    content = {
        "schema": SCHEMA,
        "kind": KIND,
        "versions": {"lomt": __version__, "torch": torch.__version__, "timm": timm.__version__},
        "factory": {"spec": factory.spec, "kwargs": dict(factory.kwargs)},
        "weights": dict(weights),
        "tied": dict(tied),
        "plans": [plan.to_dict() for plan in plans],
    }
    return json.dumps({**content, "sha256": _checksum(content)}, indent=1) + "\n"


def read_structure(path: Path) -> StructureFile:
    """Read and check the file; nothing in it is executed.

    The checksum finds damage and edits by hand. It is no signature: whoever can write the file can also
    write the checksum.

    Raises:
        ArtifactError: The file is missing, damaged, changed, of another schema, or its content makes no sense.
    """
    content = _read_json(path)
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise ArtifactError(
            f"Expected {path} to be of a pruned model, but got {_kind(content)}. Save one with `lomt.save`."
        )
    if content.get("schema") != SCHEMA:
        raise ArtifactError(
            f"Expected {path} to have schema {SCHEMA}, but got {content.get('schema')}. "
            "Load it with the version of lomt that wrote it, and save it again."
        )
    if set(content) != _KEYS:
        raise ArtifactError(f"Expected {path} to have the keys {sorted(_KEYS)}, but got {sorted(content)}.")
    found = content.pop("sha256")
    if found != _checksum(content):
        raise ArtifactError(
            f"Expected {path} to be as it was saved, but its content does not have the checksum that stands "
            "in it: the file was changed or damaged. Save the model again."
        )
    return _parse(path, content)


def is_pruned_model(directory: Path) -> bool:
    """Say whether a directory holds a pruned model, as far as its `structure.json` tells."""
    try:
        content = _read_json(directory / NAME)
    except ArtifactError:
        return False
    return isinstance(content, dict) and content.get("kind") == KIND


def _parse(path: Path, content: Mapping[str, Any]) -> StructureFile:
    factory = content["factory"]
    if not isinstance(factory, dict) or set(factory) != {"spec", "kwargs"}:
        raise ArtifactError(f"Expected `factory` of {path} to have the keys spec and kwargs.")
    if not isinstance(factory["spec"], str) or not isinstance(factory["kwargs"], dict):
        raise ArtifactError(f"Expected `factory` of {path} to be a text and a mapping, but got {factory}.")
    weights = content["weights"]
    if not _is_texts(weights) or set(weights) != {"file", "sha256"}:
        raise ArtifactError(f"Expected `weights` of {path} to have the texts file and sha256.")
    for name in ("tied", "versions"):
        if not _is_texts(content[name]):
            raise ArtifactError(
                f"Expected `{name}` of {path} to map texts to texts, but got {content[name]}."
            )
    if not isinstance(content["plans"], list):
        raise ArtifactError(f"Expected `plans` of {path} to be a list.")
    try:
        plans = tuple(PruningPlan.from_dict(plan) for plan in content["plans"])
    except ArtifactError as error:
        raise ArtifactError(f"Expected {path} to hold pruning plans, but got: {error}") from error
    return StructureFile(
        Factory(factory["spec"], factory["kwargs"]),
        plans,
        content["tied"],
        weights["sha256"],
        content["versions"],
    )


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ArtifactError(f"Expected a saved model with {path}, but there is no such file.") from error
    except (ValueError, OSError, RecursionError) as error:
        raise ArtifactError(f"Expected {path} to be readable JSON, but got {error}.") from error


def _kind(content: Any) -> str:
    if isinstance(content, dict) and "model" in content:
        return "one that was not pruned"
    return (
        f"the kind {content['kind']!r}" if isinstance(content, dict) and "kind" in content else "another file"
    )


def _is_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(entry, str) for entry in value.values())


def _checksum(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
