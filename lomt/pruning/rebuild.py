"""A pruned model from its factory and its plans, and the check that it is the same model."""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lomt.errors import ArtifactError, LomtError
from lomt.models.backbone import mismatch
from lomt.models.factory import Factory, FactoryError, call_factory, factory_candidates
from lomt.pruning.plan import PruningPlan

__all__ = ["check_factory", "find_factory", "rebuild"]

logger = logging.getLogger(__name__)

Scalars = (bool, int, float, str, type(None))


def rebuild(factory: Factory | Callable[..., nn.Module], plans: Sequence[PruningPlan]) -> nn.Module:
    """Build a model and apply plans to it; the global random state is left as it was.

    Args:
        factory: A factory, or a callable that needs no arguments.
        plans: Applied in order.

    Returns:
        The pruned model with the factory's weights.

    Raises:
        LomtError: The factory does not build a model.
        ArtifactError: A plan does not fit the model.
    """
    from lomt.pruning.apply import shrink_in_place

    with torch.random.fork_rng(devices=[]):
        if isinstance(factory, Factory):
            model = factory.build()
        else:
            model = call_factory(factory, getattr(factory, "__name__", "factory"), {})
    for number, plan in enumerate(plans, start=1):
        try:
            shrink_in_place(model, plan)
        except Exception as error:  # a plan of another model can fail in any way
            what = str(error) if isinstance(error, LomtError) else f"{type(error).__name__}: {error}."
            raise ArtifactError(
                f"Expected plan {number} of {len(plans)} to fit the model that the factory builds, but got: "
                f"{what} Has the factory changed since?"
            ) from error
    return model


def check_factory(model: nn.Module, factory: Factory, plans: Sequence[PruningPlan]) -> None:
    """Make sure that a factory and plans lead to tensors of the model's names and shapes.

    Attributes that differ, such as a stride, are logged as a warning: they may make another function of the
    same tensors.

    Raises:
        FactoryError: They lead to another model.
    """
    try:
        other = rebuild(factory, plans)
    except ArtifactError as error:
        raise FactoryError(
            f"Expected `factory` to build the model that was pruned, but got: {error}"
        ) from error
    if problem := mismatch(_tensors(model), _tensors(other)):
        raise FactoryError(
            f"Expected `factory` to build the model that was pruned, but the model differs from that of "
            f"`{factory.spec}` with {dict(factory.kwargs)} by {problem}. Give the arguments it was built with."
        )
    if differences := _differences(model, other):
        logger.warning(
            "The saved model and that of factory `%s` differ in %s; the loaded one will be as the factory builds it.",
            factory.spec,
            differences,
        )


def find_factory(model: nn.Module, plans: Sequence[PruningPlan]) -> Factory:
    """Find the factory of a multitask model of ours or of a timm model by itself.

    A factory is taken only if all tensors and all plain attributes of all modules are those of the model.

    Raises:
        FactoryError: There is none, or those there are build another model.
    """
    found = ""
    for candidate in factory_candidates(model):
        try:
            other = rebuild(candidate, plans)
        except (FactoryError, ArtifactError):
            continue
        problem = mismatch(_tensors(model), _tensors(other)) or _differences(model, other)
        if not problem:
            return candidate
        found = found or f" The nearest is `{candidate.spec}`, which differs in {problem}."
    raise FactoryError(
        f"Expected `factory` to say what builds this {type(model).__name__}, but none was given and none was found."
        f'{found} Pass factory="package.module:callable", with kwargs={{...}} if it needs arguments.'
    )


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {key: value for key, value in model.state_dict().items() if isinstance(value, Tensor)}


def _differences(model: nn.Module, other: nn.Module, most: int = 3) -> str:
    mine, theirs = dict(_plain_attributes(model)), dict(_plain_attributes(other))
    names = [name for name in {**mine, **theirs} if mine.get(name, "") != theirs.get(name, "")]
    told = [f"`{name}` ({mine.get(name, 'none')} and {theirs.get(name, 'none')})" for name in names[:most]]
    return ", ".join(told) + (f" and {len(names) - most} more" if len(names) > most else "")


def _plain_attributes(model: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, module in model.named_modules():
        yield name, type(module).__name__
        for key, value in vars(module).items():
            if not key.startswith("_") and key != "training" and _is_plain(value):
                yield f"{name}.{key}".lstrip("."), value


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(_is_plain(entry) for entry in value)
    return isinstance(value, Scalars)
