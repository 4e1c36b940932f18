"""Mistakes that lie between two keys and need no library to be seen."""

from collections.abc import Iterator

from lomt.recipe.add_settings import AddSettings
from lomt.recipe.base import IMAGE_KINDS
from lomt.recipe.data_settings import DataSettings, RoomCounts
from lomt.recipe.finetune_settings import FinetuneSettings
from lomt.recipe.group_checks import group_problems
from lomt.recipe.model_checks import model_problems
from lomt.recipe.model_settings import ModelSettings
from lomt.recipe.problems import Problem, did_you_mean, unknown_task
from lomt.recipe.prune_settings import BUDGETS, DistillSettings, PruneSettings
from lomt.recipe.settings import Recipe
from lomt.recipe.sparsify_checks import sparsify_problems
from lomt.recipe.train_settings import TrainSettings

__all__ = ["find_contradictions", "trainings"]

_RESERVED_TASKS = ("backbone", "image")
_VALIDATION_IMAGES = "Give `data.counts.validation` images"
_HELD_OUT_IMAGES = "Set `data.validation_fraction` above 0"


def find_contradictions(recipe: Recipe) -> Iterator[Problem]:
    """Yield what does not fit together; keys that are None because they could not be read are passed over.

    Args:
        recipe: A validated recipe or one read leniently.
    """
    yield from _data(recipe)
    yield from _places_in_images(recipe)
    yield from model_problems(recipe)
    yield from _tasks(recipe)
    for path, train in trainings(recipe):
        yield from _training(path, train, recipe)
    yield from _locate(recipe)
    yield from _branch_points(recipe)
    yield from _distill("rewire", recipe.rewire.distill, recipe)
    yield from sparsify_problems(recipe)
    if recipe.prune is not None:
        yield from _prune(recipe.prune, recipe)
    if recipe.finetune is not None:
        yield from _finetune(recipe.finetune, recipe)
    if recipe.add is not None:
        yield from _add(recipe.add, recipe)
    yield from group_problems(recipe)
    yield from unknown_task(("target",), recipe.target, recipe.tasks)


def _data(recipe: Recipe) -> Iterator[Problem]:
    data = recipe.data
    if data.kind not in (None, "rooms"):
        if data.root is None and data.kind != "factory":
            yield Problem(("data", "root"), f"a dataset folder is needed for `data.kind: {data.kind}`.")
        if data.counts != RoomCounts():
            yield Problem(("data", "counts"), "only for `data.kind: rooms`; a folder has its own splits.")
    yield from _factory(data)
    yield from _images(recipe)
    if data.kind == "rooms":
        if data.cache_dir is not None:
            yield Problem(("data", "cache_dir"), "only for stored datasets; rooms are drawn, not read.")
        if data.root is not None:
            yield Problem(("data", "root"), "only for stored datasets; rooms are drawn, not read.")
        if data.validation_fraction:
            yield Problem(
                ("data", "validation_fraction"),
                "only for stored datasets; for rooms set `data.counts.validation`.",
            )
    smallest, largest = data.augment.scale
    if smallest > largest:
        yield Problem(
            ("data", "augment", "scale"),
            f"expected the smallest factor before the largest, but got {smallest:g}, {largest:g}.",
        )


def _images(recipe: Recipe) -> Iterator[Problem]:
    """Yield what only a folder of images knows, or what it does not know."""
    data = recipe.data
    if data.targets == "original":
        yield from _original(recipe.model)
    if data.kind == "images":
        if data.targets == "dataset":
            yield Problem(("data", "targets"), "expected original, because images alone have no labels.")
        for name, task in recipe.tasks.items():
            if task.target is not None:
                yield Problem(("tasks", name, "target"), "not for `data.kind: images`, which has no labels.")
    elif data.kind is not None and data.test_fraction != DataSettings.model_fields["test_fraction"].default:
        yield Problem(("data", "test_fraction"), "only for `data.kind: images`; others have a test split.")


def _original(model: ModelSettings) -> Iterator[Problem]:
    here = ("data", "targets")
    if model.factory is None:
        yield Problem(
            here, "original needs a trained network of your own: give `model.factory` and `model.weights`."
        )
    elif model.weights is None and not model.trained:
        yield Problem(
            here,
            "original needs a trained network: give `model.weights`, or `model.trained: true` where the factory loads "
            "them.",
        )


def _factory(data: DataSettings) -> Iterator[Problem]:
    if data.kind == "factory":
        if data.factory is None:
            yield Problem(("data", "factory"), "a factory is needed for `data.kind: factory`.")
        for key in ("root", "cache_dir", "validation_fraction"):
            if getattr(data, key):
                yield Problem(("data", key), "not for `data.kind: factory`, which makes its own splits.")
    elif data.kind is not None and data.factory is not None:
        yield Problem(("data", "factory"), "only for `data.kind: factory`.")


def _places_in_images(recipe: Recipe) -> Iterator[Problem]:
    """Yield augmentations that would move what a target of MTFL says about the whole image."""
    if recipe.data.kind != "mtfl":
        return
    targets = {task.target or name for name, task in recipe.tasks.items()} & {"landmarks", "pose"}
    for name in sorted(targets):
        if recipe.data.augment.flip:
            yield Problem(
                ("data", "augment", "flip"), f"expected 0, because target `{name}` would not follow."
            )
        if name == "landmarks" and recipe.data.augment.scale[1] > 1:
            yield Problem(
                ("data", "augment", "scale"), f"expected 1, 1, because target `{name}` would not follow."
            )


def _tasks(recipe: Recipe) -> Iterator[Problem]:
    for name, task in recipe.tasks.items():
        if name in _RESERVED_TASKS:
            yield Problem(("tasks", name), f"`{name}` has a meaning of its own; choose another task name.")
        if task.kind in IMAGE_KINDS and task.decoder.kind == "aspp":
            yield _wrong_decoder(name, f"classifier or linear for kind {task.kind}, but got aspp.")
        if task.kind not in (None, *IMAGE_KINDS) and task.decoder.kind == "classifier":
            yield _wrong_decoder(name, f"aspp or linear for kind {task.kind}, but got classifier.")


def _wrong_decoder(task: str, text: str) -> Problem:
    return Problem(("tasks", task, "decoder", "kind"), f"expected {text}")


def trainings(recipe: Recipe) -> Iterator[tuple[tuple[str, ...], TrainSettings]]:
    """Yield every block that trains, with its place."""
    yield ("train",), recipe.train
    yield ("locate", "train"), recipe.locate.train
    yield ("rewire", "train"), recipe.rewire.train
    if recipe.sparsify is not None:
        yield ("sparsify", "train"), recipe.sparsify.train
    if recipe.prune is not None:
        yield ("prune", "train"), recipe.prune.train
    if recipe.finetune is not None:
        yield ("finetune", "train"), recipe.finetune.train
    if recipe.add is not None:
        yield ("add", "train"), recipe.add.train


def _training(path: tuple[str, ...], train: TrainSettings, recipe: Recipe) -> Iterator[Problem]:
    if recipe.device == "cpu" and train.precision == "fp16":
        yield Problem((*path, "precision"), "fp16 needs a GPU; use bf16 or fp32 with `device: cpu`.")
    has_aspp = any(task.decoder.kind == "aspp" for task in recipe.tasks.values())
    if train.batch_size == 1 and has_aspp:
        yield Problem(
            (*path, "batch_size"), "expected at least 2, because aspp normalises over the batch, but got 1."
        )
    if not _has_validation(recipe.data):
        yield from _without_validation(path, train, _more_validation(recipe.data))


def _without_validation(path: tuple[str, ...], train: TrainSettings, more: str) -> Iterator[Problem]:
    if train.early_stopping is not None:
        yield Problem(
            (*path, "early_stopping"), f"needs validation data, and there is none. {more}, or leave it out."
        )
    if train.keep == "best":
        yield Problem(
            (*path, "keep"),
            f"best needs validation data, and there is none. {more}, or keep last.",
        )
    if train.schedule.kind == "plateau":
        yield Problem(
            (*path, "schedule", "kind"),
            f"plateau needs validation data, and there is none. {more}, or choose another schedule.",
        )


def _has_validation(data: DataSettings) -> bool:
    if data.kind == "images":
        return data.validation_fraction > 0
    return data.kind != "rooms" or bool(data.counts.validation)  # a folder may have a split of its own


def _more_validation(data: DataSettings) -> str:
    return _HELD_OUT_IMAGES if data.kind == "images" else _VALIDATION_IMAGES


def _locate(recipe: Recipe) -> Iterator[Problem]:
    lambdas = recipe.locate.lambdas
    if lambdas.start > lambdas.stop:
        yield Problem(
            ("locate", "lambdas", "start"),
            f"expected at most `locate.lambdas.stop`, {lambdas.stop:g}, but got {lambdas.start:g}.",
        )
    joint = recipe.locate.joint
    if joint.lambda_start > joint.lambda_stop:
        yield Problem(
            ("locate", "joint", "lambda_start"),
            f"expected at most `locate.joint.lambda_stop`, {joint.lambda_stop:g}, but got {joint.lambda_start:g}.",
        )
    if recipe.locate.stop.loss_tolerance is not None and not _has_validation(recipe.data):
        more = _more_validation(recipe.data)
        yield Problem(
            ("locate", "stop", "loss_tolerance"),
            f"needs validation data, and there is none. {more}, or leave it out.",
        )


def _branch_points(recipe: Recipe) -> Iterator[Problem]:
    points = recipe.rewire.branch_points
    if points is None or not recipe.tasks:
        return
    path = ("rewire", "branch_points")
    known = ", ".join(recipe.tasks)
    for task, point in points.items():
        if not isinstance(point, str) and recipe.model.factory is None:
            yield Problem(
                (*path, task), "expected one layer, because decoders that are built of a recipe read one."
            )
        if task not in recipe.tasks:
            near = did_you_mean(task, recipe.tasks) or "."
            yield Problem((*path, task), f"unknown task{near} Known are {known}.")
    missing = [task for task in recipe.tasks if task not in points]
    if missing and all(task in recipe.tasks for task in points):
        text = f"expected a layer for every task, but there is none for {', '.join(missing)}."
        yield Problem(path, text, tuple((*path, task) for task in missing))


def _prune(prune: PruneSettings, recipe: Recipe) -> Iterator[Problem]:
    given = [name for name in BUDGETS if getattr(prune, name) is not None]
    if len(given) != 1:
        got = " and ".join(given) or "none"
        paths = tuple(("prune", name) for name in BUDGETS)
        yield Problem(("prune",), f"expected just one of {', '.join(BUDGETS)}, but got {got}.", paths)
    yield from _distill("prune", prune.distill, recipe)


def _distill(stage: str, distill: DistillSettings | None, recipe: Recipe) -> Iterator[Problem]:
    for task in distill.weights if distill is not None else ():
        if recipe.tasks and task not in recipe.tasks:
            near = did_you_mean(task, recipe.tasks) or "."
            known = ", ".join(recipe.tasks)
            yield Problem((stage, "distill", "weights", task), f"unknown task{near} Known are {known}.")


def _finetune(finetune: FinetuneSettings, recipe: Recipe) -> Iterator[Problem]:
    if finetune.target is None and recipe.target is None:
        yield Problem(
            ("finetune", "target"), "a task to go on for is needed, and `target` names none either."
        )
    yield from unknown_task(("finetune", "target"), finetune.target, recipe.tasks)
    for network, block in (("sparse", "sparsify"), ("pruned", "prune")):
        if finetune.network == network and getattr(recipe, block) is None:
            yield Problem(
                ("finetune", "network"),
                f"{network} needs a block `{block}`, and there is none. Give one, or leave `network` out.",
            )


def _add(add: AddSettings, recipe: Recipe) -> Iterator[Problem]:
    yield from unknown_task(("add", "task"), add.task, recipe.tasks)
    if add.threshold > add.initial_score:
        yield Problem(
            ("add", "threshold"),
            f"expected at most `add.initial_score`, {add.initial_score:g}, because no layer would ever change "
            f"otherwise, but got {add.threshold:g}.",
        )
