"""Learning-rate schedules: pure functions of how much of the training is done, and the plateau rule.

A schedule maps ``progress`` (share of all optimizer steps done, 0 to 1) to a factor of the base learning rate.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lomt.errors import UnknownNameError

__all__ = ["SCHEDULES", "Patience", "PlateauFactor", "Schedule", "make_schedule"]

Schedule = Callable[[float], float]


def constant(progress: float, final: float) -> float:
    """Keep the base learning rate."""
    return 1.0


def cosine(progress: float, final: float) -> float:
    """Fall from 1 to ``final`` along half a cosine."""
    return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * progress))


def one_cycle(progress: float, final: float) -> float:
    """Rise from 0.04 to 1 in the first 30 %, then fall to ``final``, both along half a cosine.

    References:
        Super-Convergence, Smith and Topin, 2019, https://arxiv.org/abs/1708.07120
    """
    peak_at, first = 0.3, 0.04
    if progress < peak_at:
        return first + (1.0 - first) * 0.5 * (1.0 - math.cos(math.pi * progress / peak_at))
    return cosine((progress - peak_at) / (1.0 - peak_at), final)


SCHEDULES: Mapping[str, Callable[[float, float], float]] = {
    "constant": constant,
    "cosine": cosine,
    "one_cycle": one_cycle,
    "plateau": constant,
}
"""By name; ``plateau`` keeps the rate here and leaves the falling to `PlateauFactor`."""


def make_schedule(kind: str, *, warmup: float = 0.0, final: float = 0.0) -> Schedule:
    """Return the named schedule with a linear warm-up in front.

    Args:
        kind: A key of `SCHEDULES`.
        warmup: Share of all steps spent rising linearly from near zero, 0 to below 1.
        final: Share of the base learning rate that is left at the end.

    Raises:
        UnknownNameError: If there is no schedule of that name.
        ValueError: If ``warmup`` is outside [0, 1).
    """
    if kind not in SCHEDULES:
        raise UnknownNameError("schedule", kind, SCHEDULES)
    if not 0.0 <= warmup < 1.0:
        raise ValueError(f"Expected `warmup` to be at least 0 and below 1, but got {warmup}.")
    body = SCHEDULES[kind]

    def schedule(progress: float) -> float:
        if progress < warmup:
            return max(progress / warmup, 1e-3)
        return body((progress - warmup) / (1.0 - warmup), final)

    return schedule


@dataclass
class Patience:
    """Counts how many times in a row a figure did not fall to a new best.

    Args:
        limit: How many such times are tolerated.
        min_change: A fall of less than this does not count as one.
    """

    limit: int
    min_change: float = 0.0
    best: float = math.inf
    waited: int = 0

    def is_over(self, value: float) -> bool:
        """Note the next value and tell whether the limit is reached."""
        if value < self.best - self.min_change:
            self.best, self.waited = value, 0
        else:
            self.waited += 1
        return self.waited >= self.limit

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold."""
        return {"best": self.best, "waited": self.waited}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up a state again."""
        self.best, self.waited = float(state["best"]), int(state["waited"])


@dataclass
class PlateauFactor:
    """Multiply the learning rate by ``factor`` each time the validation loss has not fallen for a while.

    Args:
        factor: What the rate is multiplied by, between 0 and 1.
        patience: Epochs without a new best before it is.
    """

    factor: float
    patience: int
    value: float = 1.0
    _patience: Patience = field(init=False)

    def __post_init__(self) -> None:
        self._patience = Patience(self.patience)

    def after_epoch(self, loss: float) -> None:
        """Note an epoch's validation loss."""
        if self._patience.is_over(loss):
            self.value *= self.factor
            self._patience.waited = 0

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold."""
        return {"value": self.value, **self._patience.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up a state again."""
        self.value = float(state["value"])
        self._patience.restore(state)
