"""Weights of any model from a safetensors file or a torch checkpoint, read without executing anything."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from lomt.errors import ArtifactError
from lomt.models.backbone import mismatch

__all__ = ["load_weights", "read_checkpoint"]

WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Keys under which training scripts put the weights."""


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load weights into a model; keys and shapes must agree.

    Args:
        model: Changed in place.
        path: A safetensors file, or what `torch.save` wrote.

    Raises:
        ArtifactError: The file is missing, cannot be read without executing it, or belongs to another model.
    """
    entries = read_checkpoint(path)
    expected = {key: value for key, value in model.state_dict().items() if isinstance(value, Tensor)}
    entries.update(_tied(entries, model))
    if problem := mismatch(entries, expected):
        raise ArtifactError(f"Expected {path} to hold the weights of the model, but got {problem}.")
    model.load_state_dict(entries)


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Read weights by name; the wrapping of training scripts and of data parallelism is taken off.

    Args:
        path: A safetensors file, or what `torch.save` wrote, with the weights at top or under `state_dict`,
            `model_state_dict` or `model`.

    Returns:
        Tensors on the CPU, without the prefix `module.`.

    Raises:
        ArtifactError: There is no such file, it cannot be read, or holds no weights.
    """
    path = Path(path)
    if not path.is_file():
        raise ArtifactError(f"Expected weights at {path}, but there is no such file.")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    for key in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content or not _is_weights(content):
        raise ArtifactError(
            f"Expected {path} to hold tensors by name, at top or under one of {', '.join(WRAPPERS)}, "
            f"but got {_describe(content)}."
        )
    entries = {str(key): value for key, value in content.items()}
    if all(key.startswith("module.") for key in entries):
        entries = {key.removeprefix("module."): value for key, value in entries.items()}
    return entries


def _tied(entries: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Fill in names that are another name's tensor in the model; safetensors files hold such tensors once."""
    names: dict[int, list[str]] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        names.setdefault(id(value), []).append(name)
    filled = {}
    for group in names.values():
        present = [name for name in group if name in entries]
        if present:
            filled.update({name: entries[present[0]] for name in group if name not in entries})
    return filled


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"Expected {path} to be a safetensors file, but got {error}.") from error


def _read_torch(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ArtifactError(
            f"Expected {path} to hold weights only, but it has objects that would run code when read, or is "
            "damaged. Save `model.state_dict()` instead."
        ) from error
    except (RuntimeError, EOFError, ValueError, OSError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ArtifactError(f"Expected {path} to be a torch checkpoint, but got {first}") from error


def _is_weights(content: Mapping[Any, Any]) -> bool:
    return all(isinstance(value, Tensor) for value in content.values())


def _describe(content: Any) -> str:
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    others = sorted(str(key) for key, value in content.items() if not isinstance(value, Tensor))
    return f"other things under {', '.join(others[:5])}" if others else "nothing"
