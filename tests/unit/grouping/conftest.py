"""A network of a few hundred weights with three tasks at two depths."""

import pytest
import torch
from torch import nn

from lomt.tasks import make_task


class TwoDepths(nn.Module):
    """`early` reads the first layer, the others the second."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.ModuleDict(
            {
                "first": nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Tanh()),
                "second": nn.Conv2d(4, 4, 3, padding=1),
            }
        )
        self.decoders = nn.ModuleDict(
            {"early": nn.Conv2d(4, 1, 1), "scene": nn.Linear(4, 3), "lit": nn.Linear(4, 1)}
        )

    def forward(self, images):
        first = self.backbone["first"](images)
        pooled = torch.tanh(self.backbone["second"](first)).mean((2, 3))
        return {
            "early": self.decoders["early"](first),
            "scene": self.decoders["scene"](pooled),
            "lit": self.decoders["lit"](pooled),
        }


@pytest.fixture
def network():
    torch.manual_seed(0)
    return TwoDepths()


@pytest.fixture
def tasks():
    return {
        "early": make_task("early", "depth", 1),
        "scene": make_task("scene", "classification", 3, classes=("a", "b", "c")),
        "lit": make_task("lit", "multilabel", 1, classes=("lit",)),
    }


@pytest.fixture
def batch():
    torch.manual_seed(1)
    images = torch.rand(6, 3, 5, 4)
    depth = 0.5 + images[:, :1]
    depth[1, :, :2] = 0
    depth[4] = 0
    return {
        "image": images,
        "early": depth,
        "scene": torch.tensor([0, 1, 2, 2, -1, 0]),
        "lit": torch.tensor([1.0, 0, 0, 1, 1, -1])[:, None],
    }
