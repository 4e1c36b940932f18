"""Training states on disk: one safetensors file, no pickle, replaced in one move.

A killed process leaves either the previous checkpoint or the next one, never half of either.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.optim import Optimizer

from lomt.atomic_file import write_atomically
from lomt.errors import ArtifactError

__all__ = ["TrainingState", "load_checkpoint", "optimizer_tensors", "restore_optimizer", "save_checkpoint"]

SCHEMA = 1


@dataclass(frozen=True)
class TrainingState:
    """All that training needs to go on as if it had never stopped.

    Args:
        tensors: Weights, optimizer moments, random-number states, by dotted name.
        facts: Plain JSON values: epoch, step, patience counters, running sums.
    """

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors below ``prefix``, their names without it."""
        start = f"{prefix}."
        return {name[len(start) :]: value for name, value in self.tensors.items() if name.startswith(start)}


def save_checkpoint(path: Path, state: TrainingState) -> None:
    """Write the state; the old file stays until the new one is whole.

    Args:
        path: Where the state goes.
        state: What goes there.
    """
    # Storage of its own for every tensor: safetensors refuses memory shared between names.
    tensors = {
        name: value.detach().to("cpu", copy=True).contiguous() for name, value in state.tensors.items()
    }
    header = {"schema": str(SCHEMA), "facts": json.dumps(state.facts)}
    try:
        write_atomically(path, lambda partial: save_file(tensors, partial, header))
    except SafetensorError as error:
        # safetensors wraps the operating system's error; the user needs to hear "no space left".
        raise OSError(f"Could not write checkpoint {path}: {error}") from error


def load_checkpoint(path: Path) -> TrainingState | None:
    """Read a state, or return None where there is none.

    Raises:
        ArtifactError: If the file is damaged or of another version.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ArtifactError(
            f"Checkpoint {path} is damaged ({error}). Delete it to start this stage anew."
        ) from error
    if header.get("schema") != str(SCHEMA):
        raise ArtifactError(
            f"Expected checkpoint {path} to have schema {SCHEMA}, but got {header.get('schema')}. "
            "Delete it to start this stage anew."
        )
    return TrainingState(tensors, json.loads(header["facts"]))


def optimizer_tensors(optimizer: Optimizer, names: Mapping[Tensor, str]) -> dict[str, Tensor]:
    """Return the optimizer's state as tensors named ``<parameter>.<entry>``."""
    return {
        f"{names[parameter]}.{entry}": torch.as_tensor(value)
        for parameter, state in optimizer.state.items()
        for entry, value in state.items()
    }


def restore_optimizer(
    optimizer: Optimizer, names: Mapping[Tensor, str], tensors: Mapping[str, Tensor]
) -> None:
    """Put saved state back, in each parameter's own memory layout.

    The layout matters: sums over differently laid out tensors differ in the last bit.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            start = f"{names[parameter]}."
            for name, value in tensors.items():
                if name.startswith(start) and "." not in name[len(start) :]:
                    # A fused optimizer counts its steps on the device.
                    device = parameter.device if group.get("fused") else "cpu"
                    optimizer.state[parameter][name[len(start) :]] = _like(value, parameter, device)


def _like(value: Tensor, parameter: Tensor, device: torch.device | str) -> Tensor:
    if value.shape != parameter.shape:
        return value.to(device, copy=True)
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)
