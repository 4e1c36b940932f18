"""An earlier network of the run as the teacher of a later one."""

from pathlib import Path

from lomt.pipeline.context import Context
from lomt.pruning.storage import load
from lomt.recipe import DistillSettings, Recipe, TrainSettings
from lomt.training import Distillation

__all__ = ["distill_settings", "make_distillation"]

_LABELS_ONLY = "bayesagg"
"""The aggregation that has no place for a teacher."""


def distill_settings(
    recipe: Recipe, given: DistillSettings | None, train: TrainSettings
) -> DistillSettings | None:
    """Return how a stage distils: as its block says, otherwise not at all where there are labels.

    Where targets are the original network's predictions and the block says nothing, the teacher counts as much as they.

    Args:
        recipe: Validated.
        given: The block of the stage.
        train: How the stage trains.
    """
    if given is None and recipe.data.targets == "original" and train.aggregation != _LABELS_ONLY:
        return DistillSettings()
    return given


def make_distillation(
    context: Context, given: DistillSettings | None, teacher: Path, train: TrainSettings
) -> Distillation | None:
    """Return the losses that pull a stage's network towards a teacher's predictions; None where it learns alone.

    Args:
        context: Of the run.
        given: The block of the stage.
        teacher: Folder of a network that is there.
        train: How the stage trains.
    """
    chosen = distill_settings(context.recipe, given, train)
    if chosen is None:
        return None
    network = load(teacher).to(context.accelerator(train).device)
    network.requires_grad_(False)
    weights = {**dict.fromkeys(context.recipe.tasks, chosen.weight), **chosen.weights}
    return Distillation(network, weights, chosen.temperature)
