"""The hash by which a run knows that a dataset as published is still the same."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lomt.data.sample import Split

__all__ = ["fingerprint_of"]


def fingerprint_of(
    name: str, ids: np.ndarray, splits: Mapping[Split, np.ndarray], files: tuple[Path, ...] = ()
) -> str:
    """Hash which samples there are, which split each belongs to, and small files of labels.

    The images and label maps themselves are not read.

    Args:
        name: Of the layout.
        ids: What identifies each sample, ``(rows,)`` byte strings.
        splits: Rows of each split.
        files: Text files whose content counts.
    """
    digest = hashlib.sha256(name.encode())
    digest.update(b"\n".join(ids.tolist()))
    for split in sorted(splits):
        digest.update(split.encode() + splits[split].astype("<i8").tobytes())
    for path in files:
        content = path.read_bytes()
        digest.update(len(content).to_bytes(8, "big") + content)
    return digest.hexdigest()
