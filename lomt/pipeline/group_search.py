"""Groups of tasks from one run of their own: shared out among networks (DMTG), or by data maps (STG-MTL)."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lomt.errors import ScoreError
from lomt.grouping import Membership, group_data_maps, require_true_classes, true_class_probability
from lomt.models import TaskNetwork
from lomt.pipeline.context import Context
from lomt.training import GroupNetworks, GroupWeighting, SampleProbe, in_group

__all__ = ["membership_by_data_maps", "membership_by_search"]


def membership_by_search(context: Context, folder: Path) -> Membership:
    """Train as many copies of the dense network as there are to be groups, and share the tasks out among them.

    The search is a training of its own: the recipe's weights of the tasks count, its other weightings, aggregations,
    early stopping and best weights do not, because they would judge decoders that no task will use.

    Args:
        context: Of the run.
        folder: Of checkpoint and history.
    """
    recipe, settings, parts = context.recipe, context.recipe.group, context.parts
    count = _asked(context)
    torch.manual_seed(recipe.seed)
    networks: list[TaskNetwork] = [context.build(parts.model_spec()) for _ in range(count)]
    weighting = GroupWeighting(
        parts.weights,
        count,
        temperature=settings.temperature,
        hard=settings.hard,
        entropy=settings.entropy,
        seed=recipe.seed,
    )
    own = {in_group(name, group): name for name in parts.tasks for group in range(count)}
    plain: dict[str, Any] = {
        "weighting": "fixed",
        "weighting_options": {},
        "aggregation": None,
        "aggregation_options": {},
        "early_stopping": None,
        "keep": "last",
    }
    context.trainer(
        GroupNetworks(networks),
        {new: dataclasses.replace(parts.tasks[name], name=new) for new, name in own.items()},
        recipe.train.model_copy(update=plain),
        folder,
        targets={new: parts.targets[name] for new, name in own.items()},
        weighting=weighting,
    ).fit()
    facts = {
        "logits": weighting.logits.tolist(),
        "temperature": settings.temperature,
        "hard": settings.hard,
        "entropy": settings.entropy,
    }
    return Membership(tuple(parts.tasks), weighting.membership.double(), "dmtg", facts)


def membership_by_data_maps(context: Context, folder: Path) -> Membership:
    """Train the dense network again, look at the same training images after every epoch, and cluster the tasks.

    Args:
        context: Of the run.
        folder: Of checkpoint and history.

    Raises:
        ScoreError: If a task has no classes or is not trained to the end, or no image has labels of all tasks.
        ValueError: If there is one epoch.
    """
    recipe, settings, parts = context.recipe, context.recipe.group, context.parts
    count = _asked(context)
    require_true_classes(parts.tasks)
    torch.manual_seed(recipe.seed)
    model: TaskNetwork = context.build(parts.model_spec())
    device = context.accelerator(recipe.train).device

    def look(predictions: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        """Return the probability of the true class, (tasks, samples)."""
        for name in parts.tasks:
            if name not in predictions:
                raise ScoreError(
                    f"Expected task `{name}` to be trained in all epochs, because data maps are made after each, but "
                    f"weighting `{recipe.train.weighting}` leaves it out. Choose another `train.weighting`."
                )
        return torch.stack(
            [
                true_class_probability(task, predictions[name].float(), batch[parts.targets[name]])
                for name, task in parts.tasks.items()
            ]
        )

    probe = SampleProbe(
        look,
        parts.loader("train", recipe.train, is_augmented=False),
        -(-settings.samples // recipe.train.batch_size),
        lambda images: parts.prepared(images).to(device),
    )
    context.trainer(model, parts.tasks, recipe.train, folder, regularizer=probe).fit()
    moments = probe.moments
    if moments.count < 2:
        raise ValueError(
            "Expected `train.epochs` to be at least 2, because data maps hold how probabilities vary over epochs, "
            f"but training ended after {moments.count}."
        )
    found = group_data_maps(
        tuple(parts.tasks),
        moments.mean,
        moments.deviation,
        count,
        fuzziness=settings.fuzziness,
        seed=recipe.seed,
    )
    return dataclasses.replace(found, facts={**found.facts, "epochs": moments.count})


def _asked(context: Context) -> int:
    settings = context.recipe.group
    if settings.groups is None:
        raise ValueError(
            f"Expected `group.groups` to say how many networks for `group.method: {settings.method}`, but got null."
        )
    return settings.groups
