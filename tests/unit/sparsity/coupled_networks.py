"""Small networks whose channels hang together in known ways."""

import torch
from torch import nn

from lomt.sparsity import coupled_groups
from lomt.structure import trace_structure

IMAGES = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Branched(nn.Module):
    """A stem of 6 channels, one residual branch over 8, and a head: `a` and `head` read the stream together."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.a = nn.Conv2d(6, 8, 1)
        self.b = nn.Conv2d(8, 6, 3, padding=1, bias=False)
        self.head = nn.Conv2d(6, 2, 1)

    def forward(self, images):
        stream = self.stem(images).relu()
        return {"depth": self.head(stream + self.b(self.a(stream).relu()))}


class TwoTasks(nn.Module):
    """A backbone of 5 x 60 channels with norms, and two decoders: 380 groups that can go."""

    def __init__(self, width=60):
        super().__init__()
        layers = []
        for inputs in (3, width, width, width, width):
            layers += [nn.Conv2d(inputs, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        self.backbone = nn.Sequential(*layers)
        self.decoders = nn.ModuleDict({"depth": decoder(width, 1), "segmentation": decoder(width, 4)})

    def forward(self, images):
        features = self.backbone(images)
        return {task: layer(features) for task, layer in self.decoders.items()}

    def component_of(self, name):
        part, _, rest = name.partition(".")
        return part if part == "backbone" else rest.partition(".")[0]


def decoder(width, outputs):
    return nn.Sequential(nn.Conv2d(width, 40, 1), nn.ReLU(), nn.Conv2d(40, outputs, 1))


def branched(seed=0):
    torch.manual_seed(seed)
    return Branched()


def two_tasks(seed=0, width=60):
    torch.manual_seed(seed)
    return TwoTasks(width)


def grouped(model, **options):
    """Return the structure of a network and its coupled groups."""
    images = IMAGES.to(next(model.parameters()).dtype)
    structure = trace_structure(model, images)
    return structure, coupled_groups(model, structure, **options)


def loss_of(model, seed):
    """Return what the network is to learn in one step: its inputs' mean at every pixel."""
    dtype = next(model.parameters()).dtype
    images = torch.rand(3, 3, 5, 5, generator=torch.Generator().manual_seed(seed)).to(dtype)
    target = images.mean(1, keepdim=True)
    return sum((prediction - target).square().mean() for prediction in model(images).values())


def train(model, optimizer, seeds):
    """Take one step a seed."""
    for seed in seeds:
        optimizer.zero_grad()
        loss_of(model, seed).backward()
        optimizer.step()
