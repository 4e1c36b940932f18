"""Batch normalisation statistics for weights that have changed: averaged anew over some batches."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lomt.module_modes import modes_kept

__all__ = ["recalibrate_batch_norm"]


@torch.no_grad()
def recalibrate_batch_norm(model: nn.Module, batches: Iterable[Float[Tensor, "..."]]) -> int:
    r"""Replace the running statistics of batch norms by the means over batches.

    .. math:: \mu = \frac{1}{B} \sum_{b=1}^{B} \mu_b, \qquad \sigma^2 = \frac{1}{B} \sum_{b=1}^{B} \sigma^2_b

    where :math:`\mu_b` and :math:`\sigma^2_b` are mean and unbiased variance of a channel in batch :math:`b`, every
    batch alike. As in training, each norm sees inputs that the norms before it have normalised by the batch itself.
    Only norms that keep running statistics are in train mode meanwhile: dropout is off and no weight changes.

    Args:
        model: Changed in place; every module keeps its mode.
        batches: Inputs as the model takes them, (batch, ...); moved to the model's device.

    Returns:
        Number of batches; 0, with nothing read, where the model has no running statistics.

    Raises:
        ValueError: If there is no batch; the statistics then stay.
    """
    norms = [module for module in model.modules() if _has_statistics(module)]
    if not norms:
        return 0
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    count = 0
    with _collecting(model, norms):
        for inputs in batches:
            model(inputs.to(device, non_blocking=True))
            count += 1
        if not count:
            raise ValueError("Expected `batches` to have at least one batch, but got none.")
    return count


def _has_statistics(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None


@contextmanager
def _collecting(model: nn.Module, norms: list[nn.Module]) -> Iterator[None]:
    """Let norms average from scratch, all else in evaluation mode; what fails leaves the old statistics."""
    momenta = {norm: norm.momentum for norm in norms}
    before = {name: buffer.clone() for norm in norms for name, buffer in _named(norm)}
    try:
        with modes_kept(model):
            model.eval()
            for norm in norms:
                norm.train()
                norm.momentum = None  # type: ignore[assignment]  # the plain mean over all batches
                norm.reset_running_stats()  # type: ignore[operator]
            yield
    except BaseException:
        for norm in norms:
            for name, buffer in _named(norm):
                buffer.copy_(before[name])
        raise
    finally:
        for norm, momentum in momenta.items():
            norm.momentum = momentum


def _named(norm: nn.Module) -> Iterator[tuple[tuple[int, str], Tensor]]:
    for name, buffer in norm.named_buffers(recurse=False):
        yield (id(norm), name), buffer
