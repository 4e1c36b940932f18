"""Which part of a network is a task's own."""

from torch import nn

__all__ = ["decoder_of"]


def decoder_of(model: nn.Module, task: str) -> nn.Module | None:
    """Return a task's own part, where the model has such parts by name under ``decoders``."""
    decoders = getattr(model, "decoders", None)
    return decoders[task] if isinstance(decoders, nn.ModuleDict) and task in decoders else None
