"""Planted problems: tasks of which it is known at which layer of a backbone they can be solved."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

# Run as a script, its own folder is on the path; imported, the folder above.
try:
    import planted_features
    import planted_reach
    from planted_data import Planted
except ModuleNotFoundError:
    from benchmarks import planted_features, planted_reach
    from benchmarks.planted_data import Planted

from lomt.models import create_backbone
from lomt.pipeline.context import Context
from lomt.pipeline.parts import Parts
from lomt.pipeline.run_directory import RunDirectory
from lomt.recipe import Recipe
from lomt.training import Progress, SilentProgress

PROBLEMS = {"features": planted_features, "reach": planted_reach}


class PlantedParts(Parts):
    """The parts of a run on a planted problem.

    Args:
        recipe: From `planted_recipe`.
        problem: A key of `PROBLEMS`.
        seed: Of backbone, images, layers and heat maps.
        count: Images.
    """

    def __init__(self, recipe: Recipe, problem: str, seed: int, count: int) -> None:
        super().__init__(recipe)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1000 + seed)
            self.backbone = create_backbone(self.backbone_spec)
            self.planted: Planted = PROBLEMS[problem].plant(self.backbone, list(recipe.tasks), count)

    def dataset(self, split: str) -> Any:
        """Return the problem for training and testing alike: nothing is judged by its metrics."""
        return None if split == "validation" else self.planted


def planted_recipe(method: str, problem: str, tasks: int = 3, seed: int = 0, **locate: Any) -> Recipe:
    """Return the recipe of a run on a planted problem.

    Args:
        method: `locate.method`.
        problem: A key of `PROBLEMS`.
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
                "size": list(PROBLEMS[problem].SIZE),
                "augment": {"flip": 0.0},
                "mean": [0.5, 0.5, 0.5],
                "std": [0.25, 0.25, 0.25],
            },
            "tasks": {f"task{i}": {"kind": "keypoints"} for i in range(tasks)},
            "model": {"backbone": PROBLEMS[problem].BACKBONE, "decoder": {"kind": "linear"}},
            "train": {"epochs": 1, "batch_size": 8, "optimizer": {"lr": 2.0e-3, "weight_decay": 0.0}},
            "locate": {"method": method, "start": "initial", **locate},
        }
    )


def planted_context(
    recipe: Recipe, out: Path, problem: str, seed: int, count: int, progress: Progress | None = None
) -> Context:
    """Return what the locate stage takes."""
    parts = PlantedParts(recipe, problem, seed, count)
    directory = RunDirectory(out, recipe, "")
    return Context(recipe, directory, progress or SilentProgress(), parts, is_writer=True)


def blocks_apart(parts: Parts, found: Mapping[str, str], planted: Mapping[str, str]) -> dict[str, int]:
    """Return by task how many blocks lie between two layers; positive where the found one is deeper."""
    names = [layer.name for layer in parts.layers if layer.kind == "block"]
    return {task: names.index(found[task]) - names.index(layer) for task, layer in planted.items()}
