"""Planted by reach: each task's heat maps show what lies a known number of pixels away in images of white noise.

Block number b, from 0, reaches 2^b pixels, so that all blocks before it together reach 2^b - 1. A task whose answer
lies 2^b pixels away can be solved from the features of block b and of no block before it, needs block b, and needs no
other: nothing can stand in for it.
"""

from typing import Any

import torch
from timm.models import register_model
from torch import Tensor, nn

try:
    from planted_data import Planted
except ModuleNotFoundError:
    from benchmarks.planted_data import Planted

SIZE = (16, 96)
_HEAT_MAPS = 3
_BLOCKS = 6
BACKBONE = {"name": "lomt_planted_reach"}


class ReachBlock(nn.Module):
    """A residual block whose one spatial convolution looks `reach` pixels around."""

    def __init__(self, width: int, reach: int) -> None:
        super().__init__()
        self.look = nn.Conv2d(width, width, 3, padding=reach, dilation=reach, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.mix = nn.Conv2d(width, width, 1, bias=False)
        self.last_norm = nn.BatchNorm2d(width)

    def forward(self, features: Tensor) -> Tensor:
        """Add what is seen."""
        seen = self.mix(torch.relu(self.norm(self.look(features))))
        return torch.relu(features + self.last_norm(seen))


class ReachNetwork(nn.Module):
    """Blocks of doubling reach at full size."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.blocks = nn.Sequential(*(ReachBlock(width, 2**number) for number in range(_BLOCKS)))

    def forward(self, images: Tensor) -> Tensor:
        """Return the last block's features, (batch, width, height, width)."""
        features: Tensor = self.blocks(self.stem(images))
        return features


@register_model
def lomt_planted_reach(pretrained: bool = False, **_: Any) -> ReachNetwork:
    """Build the network for timm, whose further arguments have no meaning here."""
    return ReachNetwork()


def plant(backbone: nn.Module, tasks: list[str], count: int) -> Planted:
    """Return images, and heat maps of blocks drawn by lot."""
    images = (torch.randn(count, 3, *SIZE) * 64 + 128).clamp(0, 255).byte()
    inputs = (images / 255 - 0.5) / 0.25
    numbers = torch.randperm(_BLOCKS)[: len(tasks)].tolist()
    heat_maps = {task: _heat_maps(inputs, 2**number) for task, number in zip(tasks, numbers, strict=True)}
    layers = {task: f"blocks.{number}" for task, number in zip(tasks, numbers, strict=True)}
    return Planted(images, heat_maps, layers)


def _heat_maps(inputs: Tensor, distance: int) -> Tensor:
    """Return heat maps of the colours so many pixels to the left; where there is no such pixel, one half."""
    there = torch.einsum("oc, nchw -> nohw", torch.randn(_HEAT_MAPS, 3), inputs)
    heat_maps = there.roll(distance, 3).sigmoid()
    heat_maps[..., :distance] = 0.5
    return heat_maps
