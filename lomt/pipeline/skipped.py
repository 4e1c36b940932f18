"""The samples that a run left out because they are damaged."""

import json

from lomt.atomic_file import write_text_atomically
from lomt.errors import ArtifactError
from lomt.pipeline.context import Context
from lomt.pipeline.run_directory import RunDirectory

__all__ = ["note_skipped", "skipped_counts"]

_FILE = "skipped.json"


def note_skipped(context: Context) -> None:
    """Write the samples left out so far, by split, with what is wrong with each."""
    found = {split: damages for split, damages in context.parts.skipped.items() if damages}
    if not (found and context.is_writer):
        return
    path = context.directory.path / _FILE
    noted = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    noted |= {split: [damage.message for damage in damages] for split, damages in found.items()}
    write_text_atomically(path, json.dumps(noted, indent=2) + "\n")


def skipped_counts(directory: RunDirectory) -> dict[str, int]:
    """Return how many samples of each split a run left out; empty if none.

    Raises:
        ArtifactError: If the note is damaged.
    """
    path = directory.path / _FILE
    if not path.is_file():
        return {}
    try:
        return {
            split: len(messages) for split, messages in json.loads(path.read_text(encoding="utf-8")).items()
        }
    except (ValueError, AttributeError, TypeError) as error:
        raise ArtifactError(f"Expected {path} to list skipped samples by split, but got: {error}") from error
