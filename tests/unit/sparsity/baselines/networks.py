"""A tiny network with two tasks and their losses."""

import torch
from torch import nn

SERVES = {
    "stem.weight": ("depth", "label"),
    "shared.weight": ("depth", "label"),
    "depth.0.weight": ("depth",),
    "depth.2.weight": ("depth",),
    "label.0.weight": ("label",),
}


class TwoTasks(nn.Module):
    """A shared stem with a norm, a shared layer, and two decoders of convolutions."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 5, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(5)
        self.shared = nn.Conv2d(5, 6, 1)
        self.depth = nn.Sequential(nn.Conv2d(6, 4, 1), nn.ReLU(), nn.Conv2d(4, 1, 1))
        self.label = nn.Sequential(nn.Conv2d(6, 3, 1))
        self.linear = nn.Linear(3, 2)

    def forward(self, images):
        features = self.shared(self.norm(self.stem(images)).relu()).relu()
        return {"depth": self.depth(features), "label": self.linear(self.label(features).mean((2, 3)))}

    @staticmethod
    def component_of(name):
        part = name.partition(".")[0]
        return {"depth": "depth", "label": "label", "linear": "label"}.get(part, "backbone")


def two_tasks(seed=0):
    torch.manual_seed(seed)
    return TwoTasks().double().eval()


def losses(model):
    """Yield three batches' losses by task."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        outputs = model(torch.randn(2, 3, 4, 4, generator=generator, dtype=torch.float64))
        yield {"depth": outputs["depth"].abs().mean(), "label": 3 * outputs["label"].square().mean()}
