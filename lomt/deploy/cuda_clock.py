"""The GPU's own clock and memory, from the CUDA runtime that onnxruntime has loaded; torch is not needed."""

import ctypes
import ctypes.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lomt.deploy.session import ProviderError

__all__ = ["CudaClock"]


class CudaClock:
    """A stream with two events that measure what happens on it.

    Args:
        runtime: The CUDA runtime library.

    Raises:
        ProviderError: The library refuses a call.
    """

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime
        stream, first, last = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cudaStreamCreate", ctypes.byref(stream))
        for event in (first, last):
            self._call("cudaEventCreate", ctypes.byref(event))
        self._stream, self._first, self._last = stream, first, last

    @classmethod
    def open(cls) -> "CudaClock":
        """Find the CUDA runtime and make a clock of it.

        Raises:
            ProviderError: There is no CUDA runtime library, or it refuses a call.
        """
        for name in _candidates():
            try:
                return cls(ctypes.CDLL(name))
            except OSError:
                continue
        raise ProviderError(
            "Expected the CUDA runtime library (libcudart) to be loadable, but it was not found. Install CUDA, or put "
            "its folder on LD_LIBRARY_PATH; without it the device's own time cannot be measured."
        )

    @property
    def stream(self) -> int:
        """The stream's address, as onnxruntime's option ``user_compute_stream`` wants it."""
        return self._stream.value or 0

    def start(self) -> None:
        """Mark the beginning on the stream."""
        self._call("cudaEventRecord", self._first, self._stream)

    def stop(self) -> None:
        """Mark the end on the stream."""
        self._call("cudaEventRecord", self._last, self._stream)

    def synchronize(self) -> None:
        """Wait until all that the stream was given is done."""
        self._call("cudaStreamSynchronize", self._stream)

    def elapsed_ms(self) -> float:
        """Return the milliseconds between the two marks; both have to be reached."""
        elapsed = ctypes.c_float()
        self._call("cudaEventElapsedTime", ctypes.byref(elapsed), self._first, self._last)
        return float(elapsed.value)

    def used_bytes(self) -> int:
        """Return how much of the device's memory is in use."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
        return int(total.value - free.value)

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._runtime, name)(*arguments)
        if status != 0:
            raise ProviderError(f"Expected {name} to succeed, but got CUDA error {status}. Check the driver.")


def _candidates() -> Iterator[str]:
    """Yield where the runtime may lie: already loaded, on the system's path, in a Python package."""
    maps = Path("/proc/self/maps")
    if maps.is_file():
        yield from sorted(set(re.findall(r"/\S*libcudart\S*\.so\S*", maps.read_text())))
    found = ctypes.util.find_library("cudart")
    if found is not None:
        yield found
    yield from (f"libcudart.so.{version}" for version in (13, 12, 11))
    try:
        import nvidia  # the packages that pip installs CUDA from
    except ModuleNotFoundError:
        return
    for folder in nvidia.__path__:
        yield from (str(path) for path in sorted(Path(folder).glob("*/lib/libcudart.so*")))
