"""Planted in features: each task's heat maps are a random linear function of one layer of a random network.

The locate methods start from the same random weights: a shallower layer lacks the blocks in between, a deeper one has
other features added on top. Blocks can learn to stand in for one another, so that which of them survive says little:
a problem for methods that compare what can be read at each layer.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

try:
    from planted_data import Planted
except ModuleNotFoundError:
    from benchmarks.planted_data import Planted

from lomt.models import list_layers, truncate

SIZE = (32, 32)
_HEAT_MAPS = 3
_WIDTH = 16
BACKBONE = {
    "name": "resnet18",
    "output_stride": 8,
    "options": {"channels": [_WIDTH] * 4, "layers": [2, 2, 2, 2], "zero_init_last": False},
}


@torch.no_grad()
def plant(backbone: nn.Module, tasks: list[str], count: int) -> Planted:
    """Return images, and heat maps of layers drawn by lot."""
    images = _images(count)
    names = [layer.name for layer in list_layers(backbone, SIZE)]
    # The first layer can hardly be missed on the shallow side, the last not on the deep one.
    places = (1 + torch.randperm(len(names) - 2)[: len(tasks)]).tolist()
    layers = {task: names[place] for task, place in zip(tasks, places, strict=True)}
    inputs = (images / 255 - 0.5) / 0.25
    norms = [part for part in backbone.modules() if isinstance(part, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the plain mean over the batches seen
    backbone.train()(inputs)
    for norm in norms:
        norm.momentum = 0.1
    features = truncate(backbone, dict.fromkeys(layers.values())).eval()(inputs)
    heat_maps = {task: _heat_maps(features[layer]) for task, layer in layers.items()}
    return Planted(images, heat_maps, layers)


def _images(count: int) -> Tensor:
    coarse = torch.randn(count, 3, SIZE[0] // 2, SIZE[1] // 2)
    smooth = functional.interpolate(coarse, size=SIZE, mode="bilinear", align_corners=False)
    return (smooth * 64 + 128).clamp(0, 255).byte()


def _heat_maps(features: Tensor) -> Tensor:
    normal = nn.BatchNorm2d(features.shape[1], affine=False)(features)
    weight = 2 / math.sqrt(features.shape[1]) * torch.randn(_HEAT_MAPS, features.shape[1], 1, 1)
    logits = functional.conv2d(normal, weight)
    return functional.interpolate(logits, size=SIZE, mode="bilinear", align_corners=False).sigmoid()
