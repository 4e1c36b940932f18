"""Conversion from and to half precision, for which NumPy takes many times as long as PyTorch."""

import numpy as np
import torch

__all__ = ["convert"]

_PIECE = 1 << 15
"""Elements from which on PyTorch would start threads beside those that train."""


def convert(values: np.ndarray, into: np.ndarray) -> np.ndarray:
    """Copy values to an array of another floating-point type, each rounded to the nearest, in the calling thread.

    Args:
        values: Of any layout; may be read-only.
        into: Contiguous, of the same shape.

    Returns:
        The array copied to.
    """
    source = torch.from_numpy(np.array(values, order="C")).reshape(-1)
    target = torch.from_numpy(into).view(-1)
    for start in range(0, len(source), _PIECE):
        target[start : start + _PIECE].copy_(source[start : start + _PIECE])
    return into
