"""Stage ``rewire``: decoders at their branch points, the backbone cut after the deepest, trained jointly."""

from pathlib import Path
from typing import Literal

import torch

from lomt.branching import BranchPoint, read_branch_points, rewire
from lomt.errors import UnknownNameError
from lomt.models import AdoptedSpec, ModelSpec, TaskNetwork, save_model
from lomt.pipeline.context import Context
from lomt.pipeline.teacher import distill_settings, make_distillation

__all__ = ["initial_network", "run_rewire"]


def run_rewire(context: Context, branch_points: Path | None = None) -> None:
    """Build and train the rewired network and judge it on the test split; writes ``rewired/``.

    Args:
        context: Of the run.
        branch_points: A file to use in place of the recipe's branch points or of what ``locate`` wrote.
    """
    parts, settings = context.parts, context.recipe.rewire
    chosen = _branch_points(context, branch_points)
    is_taught = distill_settings(context.recipe, settings.distill, settings.train) is not None
    origin = context.keys["dense"] if settings.start == "dense" or is_taught else None
    folder = context.folder("rewired", context.settings_key("rewire"), chosen, origin)
    if folder.is_finished:
        return
    model = initial_network(context, rewire(parts.model_spec(), chosen), settings.start)
    shown = ", ".join(f"{task} at {layer}" for task, layer in model.branch_points.items())
    context.progress.message(f"rewire: {shown}")
    teacher = make_distillation(context, settings.distill, context.directory.path / "dense", settings.train)
    trainer = context.trainer(model, parts.tasks, settings.train, folder.path, distillation=teacher)
    trainer.fit()
    result = context.evaluate(trainer, parts.tasks, settings.train, "rewired")
    if context.is_writer:
        save_model(model, folder.path)
    folder.write_json(
        "metrics.json",
        {
            "split": "test",
            "branch_points": model.branch_points,
            "metrics": result.metrics,
            "losses": result.losses,
        },
    )
    folder.finish()


def initial_network(
    context: Context, spec: ModelSpec | AdoptedSpec, start: Literal["initial", "dense"]
) -> TaskNetwork:
    """Return a network with decoders at their branch points as it is before training, the same whenever asked.

    Args:
        context: Of the run.
        spec: Which network.
        start: Where the backbone's weights come from: ``"initial"``, those of the recipe, or ``"dense"``.
    """
    torch.manual_seed(context.recipe.seed)
    return context.build(spec, start)


def _branch_points(context: Context, file: Path | None) -> dict[str, BranchPoint]:
    given = context.recipe.rewire.branch_points
    if file is None and given is not None:
        chosen = dict[str, BranchPoint](given)
    else:
        path = file or context.directory.path / "locate" / "branch_points.yaml"
        chosen = read_branch_points(path, list(context.recipe.tasks))
    known = {layer.name for layer in context.parts.layers}
    for task, point in chosen.items():
        for layer in [point] if isinstance(point, str) else point.values():
            if layer not in known:
                raise UnknownNameError(f"layer of task `{task}`", layer, known)
    return chosen
