"""The record of a training, one JSON object per epoch and line."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lomt.atomic_file import write_text_atomically

__all__ = ["History"]


class History:
    """Epoch records in ``history.jsonl``, and in TensorBoard where asked.

    Args:
        path: The file, or None to keep nothing on disk.
        tensorboard: Whether scalars also go to TensorBoard event files beside it.

    Raises:
        ModuleNotFoundError: If TensorBoard is asked for and not installed.
    """

    def __init__(self, path: Path | None, *, tensorboard: bool = False) -> None:
        self._path = path
        self._records: list[dict[str, Any]] = []
        self._writer: Any = _writer(path.parent / "tensorboard") if tensorboard and path is not None else None

    @property
    def records(self) -> tuple[dict[str, Any], ...]:
        """All records so far."""
        return tuple(self._records)

    def rewind(self, epoch: int) -> None:
        """Take up the records on disk of the epochs before ``epoch`` and forget the rest."""
        if self._path is None or not self._path.exists():
            return
        lines = self._path.read_text(encoding="utf-8").splitlines()
        self._records = [r for r in map(_parsed, lines) if r is not None and r["epoch"] < epoch]
        self._write()

    def add(self, record: Mapping[str, Any]) -> None:
        """Append one epoch's record."""
        self._records.append(dict(record))
        self._write()
        if self._writer is not None:
            for name, value in _scalars(record):
                self._writer.add_scalar(name, value, record["epoch"])
            self._writer.flush()

    def _write(self) -> None:
        if self._path is not None:
            write_text_atomically(self._path, "".join(json.dumps(r) + "\n" for r in self._records))


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        return None
    return record if isinstance(record, dict) and "epoch" in record else None


def _scalars(record: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for name, value in record.items():
        if isinstance(value, Mapping):
            found += _scalars(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            found.append((f"{prefix}{name}", float(value)))
    return found


def _writer(directory: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ModuleNotFoundError(
            "Expected TensorBoard to be installed, because `tensorboard` is true. "
            "Install it with `pip install lomt[tensorboard]` or set it to false."
        ) from error
    return SummaryWriter(log_dir=str(directory))
