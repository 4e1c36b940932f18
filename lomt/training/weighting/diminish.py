"""Auxiliary tasks that fade away."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from lomt.errors import UnknownNameError
from lomt.training.weighting.target import TargetWeighting
from lomt.training.weighting.weighting import Moment

__all__ = ["Diminish"]

PerTask = float | Mapping[str, float]


class Diminish(TargetWeighting):
    r"""Let every auxiliary task's weight fall exponentially, and leave the task out below a cut-off.

    .. math:: \gamma_k(t) = \gamma_{k,0} \, e^{-\eta_k t^{\nu_k}}

    with the recipe's weight :math:`\gamma_{k,0}` and the time :math:`t` in epochs. The paper has no cut-off, and
    therefore saves no time; below it forward and backward passes are skipped and the decoder leaves memory.

    Args:
        weights: :math:`\gamma_{k,0}` by task name.
        target: The task that counts in the end.
        rate: :math:`\eta_k > 0`, for all auxiliaries or by task.
        curvature: :math:`\nu_k > 0`, for all auxiliaries or by task.
        cutoff: Share of its first weight, from 0 to below 1, at which a task is left out.

    Raises:
        UnknownNameError: If a name is no auxiliary task.
        ValueError: If a number is out of its range.

    References:
        MT2ST: Adaptive Multi-Task to Single-Task Learning, Liu and Yu, 2025, https://arxiv.org/abs/2406.18038.
    """

    time: Tensor

    def __init__(
        self,
        weights: Mapping[str, float],
        *,
        target: str,
        rate: PerTask = 0.5,
        curvature: PerTask = 1.0,
        cutoff: float = 0.01,
    ) -> None:
        super().__init__(weights, target)
        self._rates = self._each("rate", rate)
        self._curvatures = self._each("curvature", curvature)
        if not 0 <= cutoff < 1:
            raise ValueError(f"Expected `cutoff` to be at least 0 and below 1, but got {cutoff}.")
        self._cutoff = cutoff
        self.register_buffer("time", torch.zeros((), dtype=torch.float64))

    def before_step(self, moment: Moment) -> None:
        """Take note of the time."""
        self.time.fill_(moment.epoch)

    def factor(self, task: str) -> float:
        r"""Return :math:`e^{-\eta_k t^{\nu_k}}`, or 0 below the cut-off."""
        value = math.exp(-self._rates[task] * float(self.time) ** self._curvatures[task])
        return value if value > self._cutoff else 0.0

    def _each(self, name: str, given: PerTask) -> dict[str, float]:
        own = given if isinstance(given, Mapping) else dict.fromkeys(self.auxiliaries, given)
        for task, value in own.items():
            if task not in self.auxiliaries:
                raise UnknownNameError(f"auxiliary task in `{name}`", task, self.auxiliaries)
            if not value > 0:
                raise ValueError(f"Expected `{name}` of task `{task}` to be above 0, but got {value}.")
        for task in self.auxiliaries:
            if task not in own:
                raise ValueError(f"Expected `{name}` to have a value for task `{task}`, but got none.")
        return dict(own)
