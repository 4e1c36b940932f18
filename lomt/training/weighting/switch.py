"""Multitask training that becomes single-task training."""

from collections.abc import Mapping

import torch
from torch import Tensor

from lomt.training.evaluate import Evaluation
from lomt.training.schedules import Patience
from lomt.training.weighting.target import TargetWeighting
from lomt.training.weighting.weighting import Moment

__all__ = ["Switch"]


class Switch(TargetWeighting):
    """Train all tasks, then the target alone; from then on the auxiliary decoders leave memory.

    Args:
        weights: Weight by task name.
        target: The task that counts in the end.
        share: Share of the training after which the auxiliaries go; the authors' code has 0.6.
        step: In its place, the optimizer step.
        patience: In its place, how many epochs in a row the target's validation loss may fail to fall.

    Raises:
        UnknownNameError: If the target is no task.
        ValueError: If more than one moment is given or one is out of its range; while training, if there is no
            validation to judge by.

    References:
        MT2ST: Adaptive Multi-Task to Single-Task Learning, Liu and Yu, 2025, https://arxiv.org/abs/2406.18038.
    """

    has_switched: Tensor
    best: Tensor

    def __init__(
        self,
        weights: Mapping[str, float],
        *,
        target: str,
        share: float | None = None,
        step: int | None = None,
        patience: int | None = None,
    ) -> None:
        super().__init__(weights, target)
        given = [value for value in (share, step, patience) if value is not None]
        if len(given) > 1:
            raise ValueError(
                f"Expected at most one of `share`, `step` and `patience`, but got {len(given)} of them."
            )
        share = 0.6 if not given else share
        if share is not None and not 0 <= share <= 1:
            raise ValueError(f"Expected `share` to be from 0 to 1, but got {share}.")
        for name, count in (("step", step), ("patience", patience)):
            if count is not None and count < 1:
                raise ValueError(f"Expected `{name}` to be at least 1, but got {count}.")
        self._share, self._step, self._patience = share, step, patience
        self.register_buffer("has_switched", torch.zeros((), dtype=torch.bool))
        self.register_buffer("best", torch.tensor([torch.inf, 0.0], dtype=torch.float64))

    def before_step(self, moment: Moment) -> None:
        """Switch when it is time."""
        is_due = self._share is not None and moment.share >= self._share
        if is_due or (self._step is not None and moment.step >= self._step):
            self.has_switched.fill_(True)

    def judge(self, validation: Evaluation | None) -> None:
        """Switch when the target's validation loss has stalled."""
        if self._patience is None:
            return
        if validation is None:
            raise ValueError(
                "Expected validation batches, because `switch` waits for the target's validation loss with "
                "`patience`, but there are none. Give validation data, or `share` or `step`."
            )
        patience = Patience(self._patience, best=float(self.best[0]), waited=int(self.best[1]))
        if patience.is_over(validation.losses[self._target]):
            self.has_switched.fill_(True)
        self.best.copy_(torch.tensor([patience.best, patience.waited]))

    def factor(self, task: str) -> float:
        """Return 1 before the switch and 0 after it."""
        return 0.0 if bool(self.has_switched) else 1.0
