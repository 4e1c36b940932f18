"""Names that only the libraries know: losses, targets, backbones, layers.

Those libraries are heavy: they are imported when a recipe is checked, not with this module.
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from lomt.errors import LomtError
from lomt.recipe.bayesagg_checks import bayesagg_problems
from lomt.recipe.checks import trainings
from lomt.recipe.model_settings import TaskSettings
from lomt.recipe.problems import Problem, did_you_mean
from lomt.recipe.settings import Recipe
from lomt.recipe.train_settings import TrainSettings

__all__ = ["find_unknown_names"]

_BACKBONE = ("model", "backbone")
_MOST_NAMES = 20


def find_unknown_names(recipe: Recipe) -> Iterator[Problem]:
    """Yield every name that no library knows; reads no data, loads no weights, touches no device.

    Args:
        recipe: A validated recipe or one read leniently.
    """
    for name, task in recipe.tasks.items():
        yield from _loss(name, task)
    yield from _task_names(recipe.tasks)
    yield from _methods(recipe)
    yield from bayesagg_problems(recipe)
    if recipe.data.kind == "rooms":
        yield from _rooms_targets(recipe.tasks, recipe.data.targets == "original")
    if recipe.model.factory is not None:
        yield from _factory(("model", "factory"), recipe.model.factory)
        for place, factory in recipe.model.new_decoders.items():
            yield from _factory(("model", "new_decoders", place), factory)
    elif recipe.model.backbone.name is not None:
        yield from _backbone(recipe)


def _loss(name: str, task: TaskSettings) -> Iterator[Problem]:
    from lomt.tasks import KINDS, LOSSES, make_task

    if task.kind is None:
        return
    losses = LOSSES[task.kind]
    if task.loss is not None and task.loss not in losses:
        near = did_you_mean(task.loss, losses) or "."
        known = ", ".join(losses)
        yield Problem(
            ("tasks", name, "loss"), f"unknown loss `{task.loss}`{near} Known for {task.kind} are {known}."
        )
        return
    channels = KINDS[task.kind].channels or 2  # any possible number: the real one is the dataset's
    try:
        make_task(name, task.kind, channels, loss=task.loss, loss_options=task.loss_options)
    except (ValueError, TypeError) as error:
        yield Problem(("tasks", name, "loss_options"), _lower(str(error)))


def _methods(recipe: Recipe) -> Iterator[Problem]:
    """Try the weighting and the aggregation of every training; what a block takes from `train` is said once."""
    if len(recipe.tasks) < 2:
        return
    is_known = recipe.target is None or recipe.target in recipe.tasks
    target = recipe.target if is_known else next(iter(recipe.tasks))  # an unknown one is said under `target`
    tasks = {name: task.weight for name, task in recipe.tasks.items()}
    seen: set[str] = set()
    for path, train in trainings(recipe):
        for key, find in (("weighting", _weighting), ("aggregation", _aggregation)):
            text = None if getattr(train, key) is None else find(train, tasks, target)
            if text is not None and text not in seen:
                seen.add(text)
                yield Problem((*path, key), text)


def _weighting(train: TrainSettings, tasks: Mapping[str, float], target: str | None) -> str | None:
    from lomt.training.weighting import make_weighting

    try:
        make_weighting(train.weighting, tasks, train.weighting_options, target=target)
    except (LomtError, ValueError, TypeError) as error:
        return _lower(str(error))
    return None


def _aggregation(train: TrainSettings, tasks: Mapping[str, float], target: str | None) -> str | None:
    from lomt.training.aggregation import make_aggregator

    assert train.aggregation is not None
    try:
        make_aggregator(train.aggregation, list(tasks), train.aggregation_options, target=target)
    except (LomtError, ValueError, TypeError) as error:
        return _lower(str(error))
    return None


def _task_names(tasks: Iterable[str]) -> Iterator[Problem]:
    from torch.nn import ModuleDict

    decoders = ModuleDict()
    for name in tasks:
        if hasattr(decoders, name):
            yield Problem(
                ("tasks", name), f"`{name}` has a meaning of its own in torch; choose another task name."
            )


def _rooms_targets(tasks: Mapping[str, TaskSettings], may_lack: bool) -> Iterator[Problem]:
    """Yield targets that rooms lack, where no network answers in their place, or have of another kind."""
    from lomt.data import RoomsDataset

    kinds = {name: target.kind for name, target in RoomsDataset(1).targets.items()}
    for name, task in tasks.items():
        target = task.target or name
        path = ("tasks", name, "target")
        if target not in kinds:
            if may_lack and task.target is None:
                continue
            near = did_you_mean(target, kinds) or "."
            yield Problem(path, f"rooms have no target `{target}`{near} They have {', '.join(kinds)}.")
        elif task.kind is not None and kinds[target] != task.kind:
            yield Problem(
                ("tasks", name, "kind"),
                f"expected {kinds[target]}, the kind of target `{target}`, but got {task.kind}.",
            )


def _backbone(recipe: Recipe) -> Iterator[Problem]:
    import timm
    import torch

    from lomt.models import BackboneSpec, create_backbone

    settings = recipe.model.backbone
    assert settings.name is not None, "asked before"
    if not timm.is_model(settings.name):
        near = difflib.get_close_matches(settings.name, timm.list_models(), n=3)
        hint = f" Near are {', '.join(near)}." if near else " Names are those of timm."
        yield Problem((*_BACKBONE, "name"), f"unknown backbone `{settings.name}`.{hint}")
        return
    spec = BackboneSpec(settings.name, settings.output_stride, settings.options)
    try:
        with torch.device("meta"):
            backbone = create_backbone(spec, None)
    except ValueError as error:
        yield Problem(_BACKBONE, _lower(" ".join(str(error).split())))
        return
    except Exception as error:  # timm raises whatever the backbone's own constructor does
        yield Problem(_BACKBONE, f"`{settings.name}` cannot be built so: {_one_line(error)}.")
        return
    yield from _layers(recipe, backbone)


def _factory(path: tuple[str, ...], factory: str) -> Iterator[Problem]:
    from lomt.models.factory import load_factory

    try:
        load_factory(factory)
    except LomtError as error:
        yield Problem(path, _lower(str(error)))


def _layers(recipe: Recipe, backbone: Any) -> Iterator[Problem]:
    import torch

    from lomt.models import list_layers

    points = recipe.rewire.branch_points
    if not points or recipe.data.size is None:
        return
    path = ("rewire", "branch_points")
    height, width = recipe.data.size
    try:
        with torch.device("meta"):
            layers = list_layers(backbone, (height, width), granularity="all")
    except (LomtError, ValueError) as error:
        yield Problem(path, f"the layers cannot be listed: {error}")
        return
    known = [layer.name for layer in layers]
    for task, layer in points.items():
        if isinstance(layer, str) and layer not in known:
            near = did_you_mean(layer, known) or f". Known are {_listing(known)}."
            yield Problem((*path, task), f"unknown layer `{layer}`{near}")


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _lower(text: str) -> str:
    return f"{text[:1].lower()}{text[1:]}"


def _listing(names: list[str]) -> str:
    shown = ", ".join(names[:_MOST_NAMES])
    return shown if len(names) <= _MOST_NAMES else f"{shown} and {len(names) - _MOST_NAMES} more"
