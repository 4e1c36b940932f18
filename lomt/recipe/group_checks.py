"""Mistakes in a recipe's block `group`."""

from collections.abc import Iterator

from lomt.recipe.group_settings import CLASS_KINDS, MOST_FOR_TAG
from lomt.recipe.problems import Problem
from lomt.recipe.settings import Recipe

__all__ = ["group_problems"]

_NEED_A_NUMBER = {"dmtg": "method dmtg", "data_maps": "method data_maps"}
_MEASURED_WHILE_TRAINING = ("lookahead", "cosine")
_ENDS_TASKS = ("switch", "diminish")
_CLUSTERINGS_THAT_NEED_A_NUMBER = {"spectral": "the spectral method", "tag": "clustering tag"}


def group_problems(recipe: Recipe) -> Iterator[Problem]:
    """Yield what does not fit together in the block.

    Args:
        recipe: A validated recipe or one read leniently.
    """
    group, count = recipe.group, len(recipe.tasks)
    if group.groups is not None and group.penalty is not None:
        yield Problem(("group",), "expected just one of groups and penalty, but got both.")
    for name, value in (("groups", group.groups), ("subset_size", group.subset_size)):
        is_asked = name in group.model_fields_set
        if count and is_asked and value is not None and value > count:
            yield Problem(("group", name), f"expected at most {count}, the number of tasks, but got {value}.")
    if group.groups is None:
        what = _NEED_A_NUMBER.get(group.method) or _CLUSTERINGS_THAT_NEED_A_NUMBER.get(group.clustering)
        if what:
            yield Problem(("group", "groups"), f"{what} needs the number of groups.")
    if group.clustering == "tag" and group.method not in _NEED_A_NUMBER and count > MOST_FOR_TAG:
        yield Problem(
            ("group", "clustering"),
            f"expected at most {MOST_FOR_TAG} tasks for tag, which is exact, but there are {count}; choose sdp or "
            "spectral.",
        )
    if group.method in _MEASURED_WHILE_TRAINING and recipe.train.weighting in _ENDS_TASKS:
        yield Problem(
            ("group", "method"),
            f"`{group.method}` measures all tasks at the end of every epoch, but `train.weighting: "
            f"{recipe.train.weighting}` takes tasks out of the training. Choose another weighting, or method gradtag.",
        )
    if group.method == "data_maps":
        yield from _data_maps(recipe)


def _data_maps(recipe: Recipe) -> Iterator[Problem]:
    for name, task in recipe.tasks.items():
        if task.kind not in (None, *CLASS_KINDS):
            yield Problem(
                ("tasks", name, "kind"),
                f"expected one of {', '.join(CLASS_KINDS)}, because `group.method: data_maps` is about the "
                f"probability of the true class, but got {task.kind}. Leave the task out, or choose another method.",
            )
    if recipe.train.epochs is not None and recipe.train.epochs < 2:
        yield Problem(
            ("train", "epochs"),
            f"expected at least 2, because `group.method: data_maps` looks at how probabilities vary over epochs, "
            f"but got {recipe.train.epochs}.",
        )
