"""Device, precision and processes."""

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from lomt.errors import TrainingError

__all__ = ["make_accelerator"]


def make_accelerator(precision: str = "fp32", device: str = "auto") -> Accelerator:
    """Return the engine for this process: device, precision and the other processes.

    Args:
        precision: ``"fp32"``, ``"bf16"`` or ``"fp16"``.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.

    Raises:
        TrainingError: If a GPU is asked for and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise TrainingError(
            "Expected a CUDA device, because `device` is cuda, but found none. Use cpu or auto."
        )
    # Precision is global in accelerate; stages of one run may differ in it.
    AcceleratorState._reset_state()
    # Told that it is on CPU, accelerate joins several processes by gloo; otherwise it runs them side by side.
    is_on_cpu = device == "cpu" or not torch.accelerator.is_available()
    return Accelerator(mixed_precision={"fp32": "no"}.get(precision, precision), cpu=is_on_cpu)
