"""The float32 CPU copy of a model that is exported and that exports are compared with."""

import torch
from torch import Tensor, nn

from lomt.structure import copy_model, named_outputs

__all__ = ["inference_copy", "task_outputs"]

_EXPECTATION = "Expected `model` to return tensors, best a dictionary of task name → tensor"


def inference_copy(model: nn.Module) -> nn.Module:
    """Copy a model to the CPU in float32 and evaluation mode; the given one is left as it was."""
    copied = copy_model(model).to(device="cpu", dtype=torch.float32).requires_grad_(False)
    return copied.train().eval()  # both: models that cache tensors in eval mode start afresh


def task_outputs(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Run the model and name its tensors: by key, field or position; `output` where there is only one.

    Raises:
        TypeError: The answer holds no tensors.
    """
    with torch.no_grad():
        answer = model(images)
    outputs = named_outputs(answer)
    if not outputs:
        raise TypeError(f"{_EXPECTATION}, but got {type(answer).__name__} without any.")
    return outputs
