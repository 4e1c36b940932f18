"""What a model remembers of its past: the factory it came from and the plans applied since."""

import dataclasses
from dataclasses import dataclass

from torch import nn

from lomt.models.factory import Factory
from lomt.pruning.plan import PruningPlan

__all__ = ["Origin", "add_plan", "origin_of", "set_origin"]

_KEY = "_lomt_origin"
"""Entry of the module's ``__dict__``: it is copied with the model and is no part of its state."""


@dataclass(frozen=True)
class Origin:
    """How a model came about, apart from its weights.

    Args:
        factory: What built it; ``None`` if that is not known.
        plans: The plans applied to it, in order.
    """

    factory: Factory | None = None
    plans: tuple[PruningPlan, ...] = ()


def origin_of(model: nn.Module) -> Origin:
    """Return what the model remembers; an empty origin if nothing."""
    origin = model.__dict__.get(_KEY)
    return origin if isinstance(origin, Origin) else Origin()


def set_origin(model: nn.Module, origin: Origin) -> None:
    """Let the model remember its origin; a deep copy of it will too."""
    model.__dict__[_KEY] = origin


def add_plan(model: nn.Module, plan: PruningPlan) -> None:
    """Remember that a plan was applied to the model."""
    origin = origin_of(model)
    set_origin(model, dataclasses.replace(origin, plans=(*origin.plans, plan)))
