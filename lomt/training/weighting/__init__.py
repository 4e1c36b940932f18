"""How the tasks' losses are weighed against each other, one method a file."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from lomt.errors import TrainingError, UnknownNameError
from lomt.training.weighting.adaptive import AdaptiveWeighting
from lomt.training.weighting.alphavil import AlphaVil
from lomt.training.weighting.diminish import Diminish
from lomt.training.weighting.dwa import DynamicWeightAverage
from lomt.training.weighting.fixed import FixedWeighting
from lomt.training.weighting.forkmerge import ForkMerge
from lomt.training.weighting.gradnorm import GradNorm
from lomt.training.weighting.switch import Switch
from lomt.training.weighting.uncertainty import UncertaintyWeighting
from lomt.training.weighting.weighting import Moment, TrainingView, Weighting

__all__ = [
    "WEIGHTINGS",
    "AdaptiveWeighting",
    "FixedWeighting",
    "Moment",
    "TrainingView",
    "UncertaintyWeighting",
    "Weighting",
    "make_weighting",
    "wants_target",
]

WEIGHTINGS: Mapping[str, Callable[..., Weighting]] = {
    "adaptive": AdaptiveWeighting,
    "fixed": FixedWeighting,
    "uncertainty": UncertaintyWeighting,
    "dwa": DynamicWeightAverage,
    "gradnorm": GradNorm,
    "diminish": Diminish,
    "switch": Switch,
    "alphavil": AlphaVil,
    "forkmerge": ForkMerge,
}


def make_weighting(
    name: str,
    weights: Mapping[str, float],
    options: Mapping[str, Any] | None = None,
    *,
    target: str | None = None,
) -> Weighting:
    """Return the named method.

    Args:
        name: A key of `WEIGHTINGS`.
        weights: The recipe's weight of every task, by task name.
        options: Further arguments of the method.
        target: The task that counts in the end, for the methods that have one.

    Raises:
        UnknownNameError: If there is no method of that name, or it has no such option.
        ValueError: If the value of an option does not fit.
        TrainingError: If the method wants a target and there is none.
    """
    if name not in WEIGHTINGS:
        raise UnknownNameError("weighting", name, WEIGHTINGS)
    known = inspect.signature(WEIGHTINGS[name]).parameters
    chosen = dict(options or {})
    for option in chosen:
        if option in ("weights", "target") or option not in known:
            raise UnknownNameError(
                f"option of weighting {name}", option, [o for o in known if o not in ("weights", "target")]
            )
    if wants_target(name):
        if target is None:
            raise TrainingError(
                f"Expected `target` to name a task, because weighting `{name}` works for one, but got none."
            )
        chosen["target"] = target
    return WEIGHTINGS[name](weights, **chosen)


def wants_target(name: str) -> bool:
    """Tell whether a method, by its name in `WEIGHTINGS`, works for one target task."""
    return "target" in inspect.signature(WEIGHTINGS[name]).parameters
