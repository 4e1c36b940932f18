"""The float32 CPU copy of a model that is exported and that exports are compared with."""

import copy

import torch
from torch import Tensor, nn

__all__ = ["inference_copy", "task_outputs"]

_EXPECTATION = "Expected `model` to return a dictionary of task name → tensor"


def inference_copy(model: nn.Module) -> nn.Module:
    """Copy a model to the CPU in float32 and evaluation mode; the given one is left as it was."""
    return copy.deepcopy(model).to(device="cpu", dtype=torch.float32).eval().requires_grad_(False)


def task_outputs(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Run the model and make sure that it answers with named tensors.

    Raises:
        TypeError: The answer is not a dictionary of task name → tensor.
    """
    with torch.no_grad():
        outputs = model(images)
    if not isinstance(outputs, dict):
        raise TypeError(f"{_EXPECTATION}, but got {type(outputs).__name__}.")
    for name, value in outputs.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise TypeError(f"{_EXPECTATION}, but got {type(value).__name__} under the key {name!r}.")
    if not outputs:
        raise TypeError(f"{_EXPECTATION}, but got an empty one.")
    return outputs
