"""Train and eval mode of a model's modules, put back as they were."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["modes_kept"]


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Put every module back into its mode in the end.

    What models keep from eval mode is forgotten on the way: some cache tensors until they are put into train mode.

    Args:
        model: Its modules may go into any mode meanwhile.
    """
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        model.train()
        for module, mode in modes.items():
            module.training = mode
