"""A trained network that runs without labels take their targets from."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from lomt.data import IMAGE, RoomsDataset
from lomt.pipeline.parts import Parts

__all__ = ["Original", "knowing", "write_images"]


class Original(nn.Module):
    """Answers by one convolution a dense task and by mean colours for the others; depth is positive.

    Args:
        dense: Channels by task.
        flat: Outputs by task with one answer an image.
    """

    def __init__(self, dense=None, flat=None):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.dense = nn.ModuleDict(
                {name: nn.Conv2d(3, channels, 3, padding=1) for name, channels in (dense or {}).items()}
            )
            self.flat = nn.ModuleDict({name: nn.Linear(3, outputs) for name, outputs in (flat or {}).items()})

    def forward(self, images):
        found = {name: layer(images) for name, layer in self.dense.items()}
        if "depth" in found:
            found["depth"] = 1 + functional.softplus(found["depth"])
        colours = images.mean((2, 3))
        return found | {name: layer(colours) for name, layer in self.flat.items()}


@contextmanager
def knowing(network):
    """Let every run find this network as its original one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Parts, "original", property(lambda parts: network.eval()))
        yield network


def write_images(root, count, size=(32, 48)):
    """Write rooms as images without labels."""
    rooms = RoomsDataset(count, size=size, seed=5, targets=[])
    root.mkdir()
    for index in range(count):
        Image.fromarray(np.ascontiguousarray(rooms.sample(index)[IMAGE])).save(root / f"{index:03}.png")
    return root
