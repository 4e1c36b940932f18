"""Locate by single-task runs: train each task alone with group lasso and see what is left of the backbone."""

from typing import Any

import torch
from torch import nn

from lomt.branching import DensityProfile, density_profile
from lomt.models import TaskNetwork
from lomt.pipeline.context import Context
from lomt.pipeline.loss_scales import loss_scales
from lomt.pipeline.run_directory import StageFolder
from lomt.sparsity import SparsityReport, StoppingRules, lambda_path, measure_sparsity
from lomt.structure import channel_groups
from lomt.training import GroupLassoPath

__all__ = ["single_task_key", "single_task_profiles"]

_NOT_OF_TRAINING = ("method", "joint", "rule", "activity", "granularity", "finer_epochs")


def single_task_key(context: Context) -> dict[str, Any]:
    """Return the settings that the trials depend on; not the reading of their results."""
    key = context.settings_key("locate")
    for name in _NOT_OF_TRAINING:
        del key["settings"]["locate"][name]
    return key


def single_task_profiles(context: Context, folder: StageFolder) -> dict[str, DensityProfile]:
    """Train every task as often as there are seeds, or read back what has been done; return the evidence."""
    settings, layers = context.recipe.locate, context.parts.layers
    profiles = {}
    for task in context.recipe.tasks:
        reports = [_trial(context, folder, task, trial) for trial in range(settings.seeds)]
        profiles[task] = density_profile(task, reports, layers, granularity=settings.granularity)
    return profiles


def _trial(context: Context, folder: StageFolder, task: str, trial: int) -> SparsityReport:
    """Train one task alone along the lambda path; a trial that has been done is read back."""
    place = folder.path / task
    stored = f"{task}/sparsity.json" if trial == 0 else f"{task}/sparsity_{trial}.json"
    if (folder.path / stored).exists():
        return SparsityReport.from_dict(folder.read_json(stored)["report"])
    settings, parts, seed = context.recipe.locate, context.parts, context.recipe.seed + trial
    context.progress.message(f"locate: {task} alone, trial {trial + 1} of {settings.seeds}")
    tasks = {task: parts.tasks[task]}
    torch.manual_seed(seed)
    model = context.build(parts.model_spec(tasks), settings.start)
    kinds = _kinds(context, model)
    path = GroupLassoPath(
        model.backbone,
        lambda_path(settings.lambdas.start, settings.lambdas.stop, settings.lambdas.count),
        epochs_per_lambda=settings.train.epochs,
        metric=settings.metric,
        kinds=kinds,
        stopping=StoppingRules(
            sparsity_cap=settings.stop.sparsity,
            stalled_change=settings.stop.stalled_change,
            stalled_patience=settings.stop.stalled_patience,
            loss_tolerance=settings.stop.loss_tolerance,
        ),
    )
    trainer = context.trainer(
        model,
        tasks,
        settings.train,
        place,
        name="train" if trial == 0 else f"trial_{trial}",
        seed=seed,
        epochs=path.epochs,
        weights=loss_scales(context, model, tasks),
        regularizer=path,
    )
    history = trainer.fit()
    groups = channel_groups(model.backbone, kinds=kinds)
    report = measure_sparsity(groups, component_of=lambda _: "backbone")
    result = context.evaluate(trainer, tasks, settings.train, f"{task} alone")
    folder.write_json(
        stored,
        {
            "task": task,
            "trial": trial,
            "report": report.to_dict(),
            "metrics": result.metrics,
            "history": history,
        },
    )
    folder.drop_checkpoints()
    return report


def _kinds(context: Context, model: TaskNetwork) -> tuple[type[nn.Module], ...]:
    """Return the kinds of layers whose groups tell what is needed: linear ones too where blocks are made of them."""
    between = [layer.name for layer in context.parts.layers if layer.kind == "conv"]
    modules = dict(model.backbone.named_modules())
    has_linear = any(isinstance(modules.get(name), nn.Linear) for name in between)
    return (nn.Conv2d, nn.Linear) if has_linear else (nn.Conv2d,)
