"""Structures written by hand for two tiny networks, and counts that follow from their tensors' shapes."""

from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import nn

from lomt.structure.coupled_channels import CoupledChannels, TensorSlices


@dataclass(frozen=True)
class HandStructure:
    """What scores and budgets read of a structure; `sizes` says how often each weight is applied."""

    coupled: tuple
    shapes: dict
    sizes: dict
    components: dict = field(default_factory=dict)

    @property
    def prunable(self):
        return tuple(c for c in self.coupled if c.protected is None)

    def component(self, name):
        return self.components.get(name, "shared")

    def params(self, keep):
        return sum(self._entries(name, keep) for name in self.shapes)

    def macs(self, keep):
        return sum(self._entries(name, keep) * times for name, times in self.sizes.items())

    def _entries(self, tensor, keep):
        shape = list(self.shapes[tensor])
        for coupled in self.coupled:
            for part in coupled.slices:
                if part.tensor == tensor and coupled.name in keep:
                    shape[part.dim] = int(keep[coupled.name][part.owner].sum())
        return torch.Size(shape).numel()


def coupled_channels(name, count, *slices, protected=None):
    """Make coupled channels from (tensor, dim, role) or, with several positions a channel, (.., positions)."""
    parts = [TensorSlices(tensor, dim, _owner(count, *span), role) for tensor, dim, role, *span in slices]
    return CoupledChannels(name, count, tuple(parts), protected)


def _owner(count, span=1):
    return torch.arange(count).repeat_interleave(span)


def shapes_of(model):
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


class TwoTasks(nn.Module):
    """A shared stem with a norm, a shared layer, and two decoders; one linear layer reads a flattened map."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.shared = nn.Conv2d(8, 12, 1)
        self.depth = nn.Sequential(nn.Conv2d(12, 6, 1), nn.ReLU(), nn.Conv2d(6, 1, 1))
        self.label = nn.Sequential(nn.Conv2d(12, 4, 1), nn.Flatten(), nn.Linear(4 * 16, 5))

    def forward(self, images):
        features = self.shared(self.norm(self.stem(images)).relu()).relu()
        return {"depth": self.depth(features), "label": self.label(features)}


def two_tasks(seed=0):
    """Return the network, its structure, and an input of 4x4 pixels."""
    torch.manual_seed(seed)
    model = TwoTasks()
    with torch.no_grad():
        model.norm.weight.copy_(torch.randn(8))
        model.norm.running_var.uniform_(0.5, 2)
    coupled = (
        coupled_channels(
            "stem",
            8,
            ("stem.weight", 0, "producer"),
            *((f"norm.{entry}", 0, "scale") for entry in ("weight", "bias", "running_mean", "running_var")),
            ("shared.weight", 1, "consumer"),
        ),
        coupled_channels(
            "shared",
            12,
            ("shared.weight", 0, "producer"),
            ("shared.bias", 0, "scale"),
            ("depth.0.weight", 1, "consumer"),
            ("label.0.weight", 1, "consumer"),
        ),
        coupled_channels(
            "depth.0",
            6,
            ("depth.0.weight", 0, "producer"),
            ("depth.0.bias", 0, "scale"),
            ("depth.2.weight", 1, "consumer"),
        ),
        coupled_channels(
            "label.0",
            4,
            ("label.0.weight", 0, "producer"),
            ("label.0.bias", 0, "scale"),
            ("label.2.weight", 1, "consumer", 16),
        ),
        coupled_channels("depth.2", 1, ("depth.2.weight", 0, "producer"), protected="output"),
    )
    sizes = {f"{layer}.weight": 16 for layer in ("stem", "shared", "depth.0", "depth.2", "label.0")}
    structure = HandStructure(
        coupled, shapes_of(model), {**sizes, "label.2.weight": 1}, {"depth.0": "depth", "label.0": "label"}
    )
    return model.eval(), structure, torch.randn(2, 3, 4, 4)


def chain(widths):
    """Return the structure of linear layers in a row; the outermost widths are protected."""
    model = nn.Sequential(*(nn.Linear(a, b) for a, b in pairwise(widths)))
    coupled = [
        coupled_channels(
            str(place),
            width,
            (f"{place}.weight", 0, "producer"),
            (f"{place}.bias", 0, "scale"),
            *([(f"{place + 1}.weight", 1, "consumer")] if place + 2 < len(widths) else []),
            protected=None if place + 2 < len(widths) else "output",
        )
        for place, width in enumerate(widths[1:])
    ]
    shapes = shapes_of(model)
    sizes = {name: 3 + place for place, name in enumerate(shapes) if name.endswith("weight")}
    components = {str(place): ("shared", "depth")[place % 2] for place in range(len(coupled))}
    return HandStructure(tuple(coupled), shapes, sizes, components)
