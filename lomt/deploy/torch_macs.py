"""Multiply-accumulates as torch counts them, to hold against those of the exported graph."""

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lomt.deploy.inference_copy import inference_copy

__all__ = ["count_torch_macs"]


def count_torch_macs(model: nn.Module, images: Tensor) -> int:
    """Return half of the floating-point operations that ``torch.utils.flop_counter`` sees in one run.

    Args:
        model: Left as it is.
        images: What it is run on.
    """
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        inference_copy(model)(images)
    return int(counter.get_total_flops()) // 2
