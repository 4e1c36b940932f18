"""Contradictions in `model`: a network of timm's parts and one of the user's own need different keys."""

from collections.abc import Iterator

from lomt.recipe.model_settings import DecoderSettings
from lomt.recipe.problems import Problem, unknown_task
from lomt.recipe.settings import Recipe

__all__ = ["model_problems"]

_OF_OWN_MODEL = ("factory_options", "weights", "trained", "inputs", "outputs", "decoders", "new_decoders")
_IMAGE = "image"  # as in samples; read without PyTorch
_OF_TIMM = ("name", "output_stride", "weights")


def model_problems(recipe: Recipe) -> Iterator[Problem]:
    """Yield what does not fit together in `model`, and in what builds on it.

    Args:
        recipe: A validated recipe or one read leniently.
    """
    if recipe.model.factory is None:
        yield from _of_timm(recipe)
    else:
        yield from _own(recipe)


def _of_timm(recipe: Recipe) -> Iterator[Problem]:
    model, here = recipe.model, ("model", "backbone", "name")
    if model.backbone.path is not None:
        yield Problem(
            ("model", "factory"),
            f"a factory is needed, because `model.backbone` names the module {', '.join(model.backbone.path)} of a "
            "model of your own. For a backbone of timm write `backbone: {name: ...}`.",
            (here,),
        )
    elif model.backbone.name is None:
        yield Problem(
            here, "a value is needed, but the key is missing. For a model of your own give `model.factory`."
        )
    for key in _OF_OWN_MODEL:
        if getattr(model, key) not in (None, {}, []):
            yield Problem(("model", key), "only for a model of your own, with `model.factory`.")


def _own(recipe: Recipe) -> Iterator[Problem]:
    model = recipe.model
    for key in _OF_TIMM:
        if getattr(model.backbone, key) is not None:
            yield Problem(("model", "backbone", key), "only for a backbone of timm, without `model.factory`.")
    if model.decoder != DecoderSettings():
        yield Problem(
            ("model", "decoder"),
            "only for a backbone of timm: with `model.factory` decoders are the model's own.",
        )
    for key in ("outputs", "decoders", "new_decoders"):
        for task in getattr(model, key):
            yield from unknown_task(("model", key, task), task, recipe.tasks)
    if model.outputs:
        for task in recipe.tasks:
            if task not in model.outputs:
                yield Problem(
                    ("model", "outputs"), f"expected a place for every task, but there is none for {task}."
                )
    yield from _inputs(recipe)
    if recipe.locate.method == "joint":
        yield Problem(
            ("locate", "method"),
            "joint needs a backbone of timm; with `model.factory` use single_task.",
            (("model", "factory"),),
        )
    if recipe.locate.granularity == "conv":
        yield Problem(
            ("locate", "granularity"), "conv needs a backbone of timm; with `model.factory` use block."
        )


def _inputs(recipe: Recipe) -> Iterator[Problem]:
    here, known = ("model", "inputs"), set[str]()
    predicted = {name: task for task, own in recipe.tasks.items() for name in (task, own.target or task)}
    for name in recipe.model.inputs:
        if name == _IMAGE:
            yield Problem(here, "the image is always the first input: name what comes after it.")
        elif name in known:
            yield Problem(here, f"`{name}` is named twice.")
        elif name in predicted:
            yield Problem(
                here,
                f"`{name}` cannot be an input, because task `{predicted[name]}` is to predict it.",
                (("tasks", predicted[name]),),
            )
        known.add(name)
