"""Mistakes of the sparsify block that lie between two keys."""

from collections.abc import Iterator

from lomt.recipe.problems import Problem, did_you_mean
from lomt.recipe.settings import Recipe
from lomt.recipe.sparsify_settings import LEARNED_METHODS, SparsifySettings

__all__ = ["sparsify_problems"]

_TARGETS = ("removable", "params", "macs")
_TARGET = ("sparsify", "target")


def sparsify_problems(recipe: Recipe) -> Iterator[Problem]:
    """Yield what does not fit together; keys that are None because they could not be read are passed over.

    Args:
        recipe: A validated recipe or one read leniently.
    """
    if recipe.prune is not None and recipe.prune.target == "sparse" and recipe.sparsify is None:
        yield Problem(
            ("prune", "target"),
            "sparse needs a block `sparsify`, and there is none. Give one, or cut rewired.",
        )
    if recipe.sparsify is None:
        return
    yield from _target(recipe.sparsify)
    yield from _method(recipe.sparsify)
    yield from _branches(recipe.sparsify)
    yield from _epochs(recipe.sparsify)
    for place, part in enumerate(recipe.sparsify.components or ()):
        known = ("backbone", *recipe.tasks)
        if recipe.tasks and part not in known:
            near = did_you_mean(part, known) or "."
            yield Problem(
                ("sparsify", "components", place), f"unknown part{near} Known are {', '.join(known)}."
            )


def _target(settings: SparsifySettings) -> Iterator[Problem]:
    if settings.target is None:
        return
    given = [name for name in _TARGETS if getattr(settings.target, name) is not None]
    if len(given) != 1:
        got = " and ".join(given) or "none"
        paths = tuple((*_TARGET, name) for name in _TARGETS)
        yield Problem(_TARGET, f"expected just one of {', '.join(_TARGETS)}, but got {got}.", paths)
    elif settings.granularity == "unstructured" and given != ["params"]:
        yield Problem(
            (*_TARGET, given[0]),
            "needs granularity structured: zeros in single weights remove nothing. Give `sparsify.target.params`.",
        )


def _method(settings: SparsifySettings) -> Iterator[Problem]:
    if settings.granularity == "unstructured" and settings.method in ("group_lasso", "both"):
        yield Problem(
            ("sparsify", "method"),
            f"{settings.method} needs granularity structured: the group lasso makes whole channels zero. "
            "Take thresholds, or a baseline.",
        )
    uses_lasso = settings.method in ("group_lasso", "both")
    optimizer = None if settings.train is None else settings.train.optimizer
    if uses_lasso and settings.metric == "adam" and optimizer is not None and optimizer.kind == "sgd":
        yield Problem(
            ("sparsify", "metric"), "adam needs optimizer adam or adamw, but got sgd; take euclidean."
        )


def _branches(settings: SparsifySettings) -> Iterator[Problem]:
    if settings.branch_weight and settings.metric == "adam":
        yield Problem(("sparsify", "branch_weight"), "needs metric euclidean, but got adam; leave it at 0.")


def _epochs(settings: SparsifySettings) -> Iterator[Problem]:
    epochs = None if settings.train is None else settings.train.epochs
    ramp = settings.ramp_epochs
    if epochs is None or settings.method not in (*LEARNED_METHODS, "imp"):
        return
    if ramp is not None and ramp > epochs:
        yield Problem(
            ("sparsify", "ramp_epochs"),
            f"expected at most `sparsify.train.epochs`, {epochs}, but got {ramp}.",
        )
    shared = ramp or max(1, epochs // 2)
    if settings.method == "imp" and settings.rounds - 1 > shared:
        yield Problem(
            ("sparsify", "rounds"),
            f"expected at most {shared + 1}, one more than the epochs that rounds share, but got "
            f"{settings.rounds}. Give more `sparsify.ramp_epochs`.",
        )
