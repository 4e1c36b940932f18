"""Models on disk: a description that a person can read, and weights without pickle."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from lomt._version import __version__
from lomt.atomic_file import write_atomically, write_text_atomically
from lomt.checksum import sha256_of
from lomt.errors import ArtifactError
from lomt.models.adopted import AdoptedSpec
from lomt.models.backbone import mismatch
from lomt.models.multitask import ModelSpec
from lomt.models.task_network import TaskNetwork

__all__ = ["SCHEMA", "load_model", "save_model"]

SCHEMA = 1
"""Version of ``structure.json``; a file with another one is refused."""

_STRUCTURE, _WEIGHTS = "structure.json", "model.safetensors"


def save_model(model: TaskNetwork, directory: str | Path) -> Path:
    """Write ``structure.json`` and ``model.safetensors`` into a directory.

    Each file is complete or as it was before: both are written under other names first and then put in
    place, the weights before the structure that holds their checksum.

    Args:
        model: The model to save, on any device.
        directory: Where to; made if it is not there.

    Returns:
        The directory.
    """
    directory = Path(directory)
    entries = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    checksum = write_atomically(directory / _WEIGHTS, lambda path: _write_weights(entries, path))
    structure = {
        "schema": SCHEMA,
        "lomt": __version__,
        "weights": {"file": _WEIGHTS, "sha256": checksum},
        "model": model.spec.to_dict(),
    }
    text = json.dumps(structure, indent=2) + "\n"
    write_text_atomically(directory / _STRUCTURE, text)
    return directory


def load_model(directory: str | Path) -> TaskNetwork:
    """Build a saved model again and load its weights; of the files nothing is executed.

    A network made of somebody else's model is built by the factory that the file names.

    Args:
        directory: What :func:`save_model` wrote.

    Returns:
        The model on the CPU, in eval mode. The global random state is left as it was.

    Raises:
        ArtifactError: A file is missing, damaged, or does not belong to the other.
    """
    directory = Path(directory)
    structure = _read_structure(directory / _STRUCTURE)
    entries = _read_weights(directory / _WEIGHTS, structure["weights"]["sha256"])
    model = _build(structure["model"], directory / _STRUCTURE)
    if problem := mismatch(entries, model.state_dict()):
        raise ArtifactError(
            f"Expected {directory / _WEIGHTS} to fit {_STRUCTURE} beside it, but got {problem}. "
            "The model may have been saved with another version of timm."
        )
    model.load_state_dict(entries)
    return model.eval()


def _write_weights(entries: dict[str, torch.Tensor], path: Path) -> str:
    """Write the weights and return the file's SHA-256."""
    save_file(entries, path, metadata={"format": "pt"})
    return sha256_of(path)


def _read_structure(path: Path) -> dict[str, Any]:
    try:
        structure: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ArtifactError(f"Expected a saved model with {path}, but there is no such file.") from error
    except (ValueError, OSError) as error:
        raise ArtifactError(f"Expected {path} to be readable JSON, but got {error}.") from error
    schema = structure.get("schema") if isinstance(structure, dict) else None
    if schema != SCHEMA:
        raise ArtifactError(
            f"Expected {path} to have schema {SCHEMA}, but got {schema}. "
            "Load it with the version of lomt that wrote it, and save it again."
        )
    weights = structure.get("weights")
    if "model" not in structure or not isinstance(weights, dict) or "sha256" not in weights:
        raise ArtifactError(
            f"Expected {path} to have `model` and `weights.sha256`, but got {sorted(structure)}."
        )
    return structure


def _read_weights(path: Path, checksum: str) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise ArtifactError(f"Expected the weights at {path}, but there is no such file.")
    if (found := sha256_of(path)) != checksum:
        raise ArtifactError(
            f"Expected {path} to have the SHA-256 {checksum[:12]}... of {_STRUCTURE}, "
            f"but got {found[:12]}...: the file was changed, or a save was interrupted. Save the model again."
        )
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"Expected {path} to be a safetensors file, but got {error}.") from error


def _build(description: Any, path: Path) -> TaskNetwork:
    try:
        with torch.random.fork_rng(devices=[]):
            kind = AdoptedSpec if "factory" in description else ModelSpec
            return kind.from_dict(description).build()
    except (ValueError, TypeError, AttributeError) as error:
        raise ArtifactError(f"Expected {path} to describe a model, but got: {error}") from error
