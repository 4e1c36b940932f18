"""What the process that times wants of a network, whatever software runs it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

__all__ = ["RunSettings", "Runner", "random_inputs"]


@dataclass(frozen=True)
class RunSettings:
    """How networks are run.

    Args:
        provider: Name in :data:`lomt.deploy.providers.INSTALL`.
        device: Where PyTorch runs, ``"cpu"`` or ``"cuda"``.
        threads: Threads within an operator; operators run one after the other.
        spinning: Whether onnxruntime's idle threads wait actively during a run.
        shape: Of the input, batch included.
        pool: Number of different inputs, which take turns.
        seed: Of the inputs.
        cache: Folder in which engines built once are kept (TensorRT).
    """

    provider: str
    device: str
    threads: int
    spinning: bool
    shape: tuple[int, ...]
    pool: int
    seed: int
    cache: str | None = None


@runtime_checkable
class Runner(Protocol):
    """An open network with its inputs in place.

    Attributes:
        load_ms: Time to open it.
        build_ms: Time to build an engine for this device, where that is apart from opening.
        used: What runs it, as the software says itself.
    """

    load_ms: float
    build_ms: float | None
    used: tuple[str, ...]

    def run(self, index: int) -> tuple[float, float | None]:
        """Run on one of the inputs and wait for the end.

        Returns:
            Milliseconds on the host's clock from before the call until the outputs are there, and on the device's
            own, where it has one.
        """
        ...

    def outputs(self, index: int) -> Mapping[str, np.ndarray]:
        """Run on one of the inputs and return the outputs by name, on the host."""
        ...

    def device_memory(self) -> int | None:
        """Return the bytes held on the device, where that is known."""
        ...


def random_inputs(settings: RunSettings, dtype: np.dtype) -> list[np.ndarray]:
    """Draw the pool of inputs: normal for floating-point types, 0 to 255 for integers.

    The same settings give the same numbers in every process.
    """
    generator = np.random.default_rng(settings.seed)
    if np.issubdtype(dtype, np.integer):
        drawn = (generator.integers(0, 256, settings.shape) for _ in range(settings.pool))
        return [own.astype(dtype) for own in drawn]
    normal = (generator.standard_normal(settings.shape, dtype=np.float32) for _ in range(settings.pool))
    return [own.astype(dtype) for own in normal]
