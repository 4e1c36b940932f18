"""How the tasks' losses are weighed against each other, one method a file."""

from collections.abc import Callable, Mapping

from lomt.errors import UnknownNameError
from lomt.training.weighting.adaptive import AdaptiveWeighting
from lomt.training.weighting.fixed import FixedWeighting
from lomt.training.weighting.uncertainty import UncertaintyWeighting
from lomt.training.weighting.weighting import Weighting

__all__ = [
    "WEIGHTINGS",
    "AdaptiveWeighting",
    "FixedWeighting",
    "UncertaintyWeighting",
    "Weighting",
    "make_weighting",
]

WEIGHTINGS: Mapping[str, Callable[[Mapping[str, float]], Weighting]] = {
    "adaptive": AdaptiveWeighting,
    "fixed": FixedWeighting,
    "uncertainty": UncertaintyWeighting,
}


def make_weighting(name: str, weights: Mapping[str, float]) -> Weighting:
    """Return the named method.

    Args:
        name: A key of `WEIGHTINGS`.
        weights: The recipe's weight of every task, by task name.

    Raises:
        UnknownNameError: If there is no method of that name.
    """
    if name not in WEIGHTINGS:
        raise UnknownNameError("weighting", name, WEIGHTINGS)
    return WEIGHTINGS[name](weights)
