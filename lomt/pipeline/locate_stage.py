"""Stage ``locate``: train each task alone with group lasso and read off the layer it needs."""

from collections.abc import Mapping
from itertools import islice
from typing import Any

import torch

from lomt.branching import branch_point, copy_matching_weights, density_profile, format_branch_points
from lomt.models import MultiTaskModel, load_model
from lomt.pipeline.context import Context
from lomt.pipeline.finer_trials import prefer_finer
from lomt.pipeline.run_directory import StageFolder, write_text
from lomt.sparsity import SparsityReport, StoppingRules, lambda_path, measure_sparsity
from lomt.tasks import Task
from lomt.training import GroupLassoPath, evaluate

__all__ = ["run_locate"]

_SCALE_BATCHES = 16


def run_locate(context: Context) -> None:
    """Find every task's branch point; writes ``locate/``."""
    settings = context.recipe.locate
    origin = context.keys["dense"] if settings.start == "dense" else None
    # Another reading of the same trials needs no training.
    reading = settings.model_dump(mode="json", include={"rule", "activity", "granularity", "finer_epochs"})
    folder = context.folder("locate", _training_key(context, reading), origin)
    if folder.is_finished and folder.read_json("profiles.json")["reading"] == reading:
        return
    profiles, chosen = {}, {}
    tried: dict[str, dict[str, float]] = {}
    layers = context.parts.layers
    for task in context.recipe.tasks:
        reports = [_trial(context, folder, task, trial) for trial in range(settings.seeds)]
        profiles[task] = density_profile(task, reports, layers, granularity=settings.granularity)
        chosen[task] = branch_point(profiles[task], rule=settings.rule, activity=settings.activity)
        if settings.finer_epochs:
            tried[task] = prefer_finer(context, folder, task, chosen[task])
            chosen[task] = min(tried[task], key=tried[task].__getitem__)
        context.progress.message(f"locate: {task} needs {chosen[task]}")
    if context.is_writer:
        write_text(folder.path / "branch_points.yaml", format_branch_points(chosen, profiles, layers, tried))
    folder.write_json(
        "profiles.json",
        {"reading": reading, "profiles": [p.to_dict() for p in profiles.values()], "finer": tried},
    )
    folder.finish()


def _training_key(context: Context, reading: Mapping[str, Any]) -> dict[str, Any]:
    key = context.settings_key("locate")
    for name in reading:
        del key["settings"]["locate"][name]
    return key


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
    model = context.build(parts.model_spec(tasks).build())
    if settings.start == "dense":
        copy_matching_weights(load_model(context.directory.path / "dense"), model)
    path = GroupLassoPath(
        model.backbone,
        lambda_path(settings.lambdas.start, settings.lambdas.stop, settings.lambdas.count),
        epochs_per_lambda=settings.train.epochs,
        metric=settings.metric,
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
        weights=_weights(context, model, tasks),
        regularizer=path,
    )
    history = trainer.fit()
    report = measure_sparsity(model.backbone, component_of=lambda _: "backbone")
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


def _weights(context: Context, model: MultiTaskModel, tasks: Mapping[str, Task]) -> dict[str, float]:
    """Return the factor that brings the task's loss to 1 at the start.

    Group lasso trades the loss against the norms: without a common scale one lambda prunes a task whose loss is
    a small number, such as a cosine, much harder than one with a large cross entropy.
    """
    if not context.recipe.locate.normalise_loss:
        return dict.fromkeys(tasks, 1.0)
    parts = context.parts
    batches = islice(parts.loader("train", context.recipe.locate.train).epoch(0), _SCALE_BATCHES)
    model.eval()
    losses = evaluate(
        lambda images: model(parts.prepared(images)), batches, tasks, targets=parts.targets
    ).losses
    return {task: 1.0 / max(loss, 1e-6) for task, loss in losses.items()}
