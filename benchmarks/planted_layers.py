"""Planted problems: tasks whose targets are known to be computable from one layer of a backbone.

A small residual network with random weights sees random images; each task's heat maps are a random linear function
of the normalised features of its own layer. The locate methods start from the same random weights: a shallower
layer lacks the blocks in between, a deeper one has other features added on top.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lomt.data import TargetSpec
from lomt.models import create_backbone, list_layers, truncate
from lomt.pipeline.context import Context
from lomt.pipeline.parts import Parts
from lomt.pipeline.run_directory import RunDirectory
from lomt.recipe import Recipe
from lomt.training import Progress, SilentProgress

SIZE = (32, 32)
_HEAT_MAPS = 3
_WIDTH = 16
_BACKBONE = {
    "name": "resnet18",
    "output_stride": 8,
    "options": {"channels": [_WIDTH] * 4, "layers": [2, 2, 2, 2], "zero_init_last": False},
}


@dataclass(frozen=True)
class Planted:
    """Images, and heat maps planted at layers.

    Args:
        images: (count, 3, height, width), bytes.
        heat_maps: By task, (count, heat maps, height, width), 0 to 1.
        layers: Where each task's heat maps were read.
    """

    images: Tensor
    heat_maps: Mapping[str, Tensor]
    layers: Mapping[str, str]
    name: str = "planted"
    fingerprint: str = "planted"

    @property
    def targets(self) -> dict[str, TargetSpec]:
        """What can be learned."""
        return {task: TargetSpec(task, "keypoints", channels=_HEAT_MAPS) for task in self.heat_maps}

    def __len__(self) -> int:
        return len(self.images)

    def sample(self, index: int) -> dict[str, Any]:
        """Return one image with its heat maps."""
        maps = {task: own[index].numpy() for task, own in self.heat_maps.items()}
        return {"image": self.images[index].permute(1, 2, 0).numpy(), **maps}


class PlantedParts(Parts):
    """The parts of a run on a planted problem.

    Args:
        recipe: From `planted_recipe`.
        seed: Of backbone, images, layers and heat maps.
        count: Images.
    """

    def __init__(self, recipe: Recipe, seed: int, count: int) -> None:
        super().__init__(recipe)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1000 + seed)
            self.backbone = create_backbone(self.backbone_spec)
            images = _images(count)
            self.planted = _plant(self.backbone, images, list(recipe.tasks))

    def dataset(self, split: str) -> Any:
        """Return the problem for training and testing alike: nothing is judged by its metrics."""
        return None if split == "validation" else self.planted


def planted_recipe(method: str, tasks: int = 3, seed: int = 0, **locate: Any) -> Recipe:
    """Return the recipe of a run on a planted problem.

    Args:
        method: `locate.method`.
        tasks: How many tasks.
        seed: Of training.
        locate: Other keys of the block `locate`.
    """
    return Recipe.model_validate(
        {
            "name": "planted",
            "seed": seed,
            "data": {
                "kind": "rooms",
                "size": list(SIZE),
                "augment": {"flip": 0.0},
                "mean": [0.5, 0.5, 0.5],
                "std": [0.25, 0.25, 0.25],
            },
            "tasks": {f"task{i}": {"kind": "keypoints"} for i in range(tasks)},
            "model": {"backbone": _BACKBONE, "decoder": {"kind": "linear"}},
            "train": {"epochs": 1, "batch_size": 8, "optimizer": {"lr": 2.0e-3, "weight_decay": 0.0}},
            "locate": {"method": method, "start": "initial", **locate},
        }
    )


def planted_context(
    recipe: Recipe, out: Path, seed: int, count: int, progress: Progress | None = None
) -> Context:
    """Return what the locate stage takes."""
    parts = PlantedParts(recipe, seed, count)
    directory = RunDirectory(out, recipe, "")
    return Context(recipe, directory, progress or SilentProgress(), parts, is_writer=True)


def blocks_apart(parts: Parts, found: Mapping[str, str], planted: Mapping[str, str]) -> dict[str, int]:
    """Return by task how many blocks lie between two layers; positive where the found one is deeper."""
    names = [layer.name for layer in parts.layers if layer.kind == "block"]
    return {task: names.index(found[task]) - names.index(layer) for task, layer in planted.items()}


def _images(count: int) -> Tensor:
    coarse = torch.randn(count, 3, SIZE[0] // 2, SIZE[1] // 2)
    smooth = functional.interpolate(coarse, size=SIZE, mode="bilinear", align_corners=False)
    return (smooth * 64 + 128).clamp(0, 255).byte()


@torch.no_grad()
def _plant(backbone: nn.Module, images: Tensor, tasks: list[str]) -> Planted:
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


def _heat_maps(features: Tensor) -> Tensor:
    normal = nn.BatchNorm2d(features.shape[1], affine=False)(features)
    weight = 2 / math.sqrt(features.shape[1]) * torch.randn(_HEAT_MAPS, features.shape[1], 1, 1)
    logits = functional.conv2d(normal, weight)
    return functional.interpolate(logits, size=SIZE, mode="bilinear", align_corners=False).sigmoid()
