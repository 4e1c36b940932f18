"""Locate by one run: all tasks read all layers through projections that a nested group lasso takes away."""

from typing import Any

import torch

from lomt.branching import (
    DensityProfile,
    SelectionModel,
    cost_factors,
    layer_costs,
    survival_profiles,
)
from lomt.branching.rewire import copy_matching_weights
from lomt.models import Layer, ModelSpec, load_model, truncate
from lomt.pipeline.context import Context
from lomt.pipeline.loss_scales import loss_scales
from lomt.pipeline.run_directory import StageFolder
from lomt.recipe import TrainSettings
from lomt.training import FeatureSelectionPath

__all__ = ["joint_key", "joint_profiles"]

_OF_SINGLE_TASK = ("method", "lambdas", "metric", "activity", "rule", "stop")
_OF_READING = ("finer_epochs",)


def joint_key(context: Context) -> dict[str, Any]:
    """Return the settings that the run depends on; not the reading of its result."""
    key = context.settings_key("locate")
    locate = key["settings"]["locate"]
    for name in (*_OF_SINGLE_TASK, *_OF_READING):
        del locate[name]
    for name in ("rule", "point"):
        del locate["joint"][name]
    return key


def joint_profiles(context: Context, folder: StageFolder) -> dict[str, DensityProfile]:
    """Train as often as there are seeds, or read back what has been done, and return the tasks' evidence."""
    trials = [_trial(context, folder, trial) for trial in range(context.recipe.locate.seeds)]
    return survival_profiles(trials)


def candidates(context: Context) -> list[Layer]:
    """Return the layers among which is chosen, in forward order; stages where a backbone has nothing finer."""
    layers, granularity = context.parts.layers, context.recipe.locate.granularity
    return [layer for layer in layers if layer.kind == granularity] or list(layers)


def _trial(context: Context, folder: StageFolder, trial: int) -> dict[str, dict[str, float]]:
    """Train one network along the lambda path; a trial that has been done is read back."""
    stored = "survival.json" if trial == 0 else f"survival_{trial}.json"
    if (folder.path / stored).exists():
        found: dict[str, dict[str, float]] = folder.read_json(stored)["survival"]
        return found
    settings, parts, seed = context.recipe.locate, context.parts, context.recipe.seed + trial
    context.progress.message(f"locate: all tasks together, trial {trial + 1} of {settings.seeds}")
    factors = cost_factors(_costs(context, folder), settings.joint.cost_exponent)
    train = _train_settings(context)
    torch.manual_seed(seed)
    model = _model(context)
    steps = -(-parts.loader("train", train).batches_per_epoch // train.accumulation_steps)
    model.selection.set_start(
        {layer: settings.joint.start_norm * factor for layer, factor in factors.items()}
    )
    path = FeatureSelectionPath(
        model.selection.weights,
        factors,
        list(parts.tasks),
        lambda_start=settings.joint.lambda_start,
        lambda_stop=settings.joint.lambda_stop,
        total_steps=steps * train.epochs,
    )
    trainer = context.trainer(
        model,
        parts.tasks,
        train,
        folder.path,
        name="train" if trial == 0 else f"trial_{trial}",
        seed=seed,
        weights=loss_scales(context, model, parts.tasks),
        backbone_lr=settings.joint.backbone_lr,
        regularizer=path,
    )
    history = trainer.fit()
    survival = path.survival()
    folder.write_json(
        stored, {"trial": trial, "survival": survival, "cost_factors": factors, "history": history}
    )
    folder.drop_checkpoints()
    return survival


def _model(context: Context) -> SelectionModel:
    settings, parts = context.recipe.locate, context.parts
    backbone = truncate(parts.backbone, [layer.name for layer in candidates(context)])
    joint = settings.joint
    spec = parts.model_spec()
    assert isinstance(spec, ModelSpec), "a recipe with a factory cannot ask for this method"
    model = context.fill(SelectionModel(spec, backbone, width=joint.width, stride=joint.stride))
    if settings.start == "dense":
        copy_matching_weights(load_model(context.directory.path / "dense").backbone, model.backbone)
    model.backbone.requires_grad_(joint.backbone_lr > 0)
    return model


def _train_settings(context: Context) -> TrainSettings:
    joint, train = context.recipe.locate.joint, context.recipe.locate.train
    optimizer = train.optimizer.model_copy(update={"lr": joint.lr})
    return train.model_copy(update={"epochs": joint.epochs, "optimizer": optimizer})


def _costs(context: Context, folder: StageFolder) -> dict[str, float]:
    """Return what each layer costs; measured once, so that an interrupted run goes on with the same values."""
    if (folder.path / "costs.json").exists():
        found: dict[str, float] = folder.read_json("costs.json")["cumulative"]
        return found
    cost, parts = context.recipe.locate.joint.cost, context.parts
    costs = layer_costs(parts.backbone, candidates(context), context.recipe.data.size, cost)
    folder.write_json("costs.json", {"cost": cost, "cumulative": costs})
    return costs
