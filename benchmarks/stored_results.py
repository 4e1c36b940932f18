"""Results that are stored as they come, so that a benchmark cut short can be gone on with."""

import json
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from lomt.atomic_file import write_text_atomically
from lomt.deploy import describe_environment

__all__ = ["begin", "say", "store"]


def begin(path: Path, settings: Mapping[str, Any], note: str) -> dict[str, Any]:
    """Return what an earlier call has stored, or a new result without arms, whose rival is Torch-Pruning.

    Args:
        path: Where the result is stored.
        settings: What it depends on.
        note: Kept in a new result.

    Raises:
        SystemExit: If the stored one was made with other settings.
    """
    if path.exists():
        stored: dict[str, Any] = json.loads(path.read_text())
        if stored["settings"] != settings:
            raise SystemExit(
                f"Expected {path} to be of the same settings, but it is not. Give another --output, or delete it."
            )
        return stored
    environment = describe_environment()
    environment["packages"]["torch-pruning"] = metadata.version("torch-pruning")
    return {"environment": environment, "settings": dict(settings), "note": note, "arms": {}}


def store(path: Path, result: Mapping[str, Any]) -> None:
    """Write the result so far, whole or not at all."""
    write_text_atomically(path, json.dumps(result, indent=2) + "\n")


def say(text: str) -> None:
    """Print a line with the time of day."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)
