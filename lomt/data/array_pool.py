"""Memory of batches that nobody holds any more, for the next ones."""

import sys
from collections import defaultdict
from typing import Any

import numpy as np

__all__ = ["ArrayPool"]

_MOST = 16  # of one shape: more would be held by somebody who keeps whole epochs


class ArrayPool:
    """Arrays that are handed out again once what was made of them is gone.

    Fresh memory of a batch's size costs the system thousands of page faults. Whatever shares an array's memory, such
    as a tensor, holds a reference to it, and so keeps it from being handed out. Another process gets an empty pool.
    """

    def __init__(self) -> None:
        self._arrays: defaultdict[tuple[Any, ...], list[np.ndarray]] = defaultdict(list)

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what another process needs: nothing of the content."""
        return ArrayPool, ()

    def empty(self, shape: tuple[int, ...], dtype: type[np.generic]) -> np.ndarray:
        """Return an array with whatever values, which nobody else holds."""
        known = self._arrays[shape, dtype]
        for array in known:
            if sys.getrefcount(array) == _IDLE:
                return array
        array = np.empty(shape, dtype)
        if len(known) < _MOST:
            known.append(array)
        return array


def _references(arrays: list[np.ndarray]) -> int:
    """Count the references to an array that only a list holds, as the loop above finds them."""
    for array in arrays:
        return sys.getrefcount(array)
    raise AssertionError("an array is given")


_IDLE = _references([np.empty(0)])
