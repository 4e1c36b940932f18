"""Batch normalisation over the batch of all processes, on CPU as well."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from timm.layers.norm_act import BatchNormAct2d, convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["synchronised_batch_norm"]


@contextmanager
def synchronised_batch_norm(model: nn.Module, device: torch.device) -> Iterator[nn.Module]:
    """Yield the model with batch norms that see the batches of all processes.

    Several processes then train as one would on the whole batch. Parameters and their names stay. torch's own
    ``SyncBatchNorm`` refuses CPU tensors, so there the modules keep their kind and only compute differently
    inside the context. With one process nothing changes.

    Args:
        model: The network; on CPU unchanged when the context ends.
        device: Where it will be trained.
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        yield model
        return
    if device.type == "cuda":
        yield convert_sync_batchnorm(model)
        return
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.forward = partial(_forward, norm)  # type: ignore[method-assign]
    try:
        yield model
    finally:
        for norm in norms:
            del norm.forward


def _forward(norm: nn.BatchNorm2d, input: Tensor) -> Tensor:
    if norm.training:
        output = _normalise(norm, input)
    else:
        output = F.batch_norm(
            input, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
        )
    # timm's BatchNormAct2d carries its activation inside.
    return norm.act(norm.drop(output)) if isinstance(norm, BatchNormAct2d) else output


def _normalise(norm: nn.BatchNorm2d, input: Tensor) -> Tensor:
    count = _summed(input.new_tensor(input.numel() / input.shape[1]))
    mean = _summed(input.sum(dim=(0, 2, 3))) / count
    centred = input - mean[:, None, None]
    variance = _summed(centred.square().sum(dim=(0, 2, 3))) / count
    _update_running(norm, mean.detach(), variance.detach(), float(count))
    scale = torch.rsqrt(variance + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight
    output: Tensor = centred * scale[:, None, None]
    return output if norm.bias is None else output + norm.bias[:, None, None]


def _update_running(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, count: float) -> None:
    if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
        return
    norm.num_batches_tracked.add_(1)
    momentum = norm.momentum if norm.momentum is not None else 1.0 / float(norm.num_batches_tracked)
    norm.running_mean.lerp_(mean, momentum)
    norm.running_var.lerp_(variance * (count / max(count - 1.0, 1.0)), momentum)


class _SumOverProcesses(torch.autograd.Function):
    """The sum over all processes; so is its gradient, since every process's loss sees the sum."""

    @staticmethod
    def forward(context: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total


def _summed(value: Tensor) -> Tensor:
    total: Tensor = _SumOverProcesses.apply(value)
    return total
