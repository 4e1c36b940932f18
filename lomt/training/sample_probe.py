"""A number a sample, looked at after every epoch: its mean and deviation over a training."""

from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor, nn
from torch.optim import Optimizer

from lomt.training.checkpoint import TrainingState
from lomt.training.evaluate import Evaluation
from lomt.training.interfaces import Batch, Loader

__all__ = ["RunningMoments", "SampleProbe"]

Look = Callable[[Mapping[str, Tensor], Batch], Tensor]


class RunningMoments:
    """Mean and standard deviation of values that come one after the other, by Welford's algorithm.

    References:
        Welford, "Note on a Method for Calculating Corrected Sums of Squares and Products", 1962,
        https://doi.org/10.1080/00401706.1962.10490022.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros(0, 0, dtype=torch.float64)
        self._squares = self.mean

    def add(self, values: Float64[Tensor, "rows columns"]) -> None:
        """Take in the next values, in the shape of the first."""
        if self.count == 0:
            self.mean, self._squares = torch.zeros_like(values), torch.zeros_like(values)
        self.count += 1
        change = values - self.mean
        self.mean = self.mean + change / self.count
        self._squares = self._squares + change * (values - self.mean)

    @property
    def deviation(self) -> Float64[Tensor, "rows columns"]:
        """The sample's standard deviation, with the divisor one less than the count; NaN before the second value."""
        divisor = self.count - 1 if self.count > 1 else torch.nan
        return (self._squares / divisor).sqrt()

    def state(self) -> TrainingState:
        """Return what a checkpoint must hold."""
        return TrainingState({"mean": self.mean, "squares": self._squares}, {"count": self.count})

    def restore(self, state: TrainingState) -> None:
        """Take up a state again."""
        self.mean, self._squares = state.tensors["mean"], state.tensors["squares"]
        self.count = state.facts["count"]


class SampleProbe:
    """Look at the same samples after every epoch, in evaluation mode; training is not changed.

    Args:
        look: From predictions by task and a batch to a number for every task and sample, (tasks, samples).
        loader: Whose first batches are looked at, always those of epoch 0.
        batches: How many of them.
        prepare: From images in 0 to 1 to what the network takes, on its device.

    Attributes:
        moments: Of the numbers so far.
    """

    def __init__(self, look: Look, loader: Loader, batches: int, prepare: Callable[[Tensor], Tensor]) -> None:
        self._look, self._loader, self._batches, self._prepare = look, loader, batches, prepare
        self.moments = RunningMoments()

    def attach(self, optimizer: Optimizer, model: nn.Module) -> None:
        """Nothing is hooked."""

    def before_epoch(self, epoch: int) -> None:
        """Nothing is set."""

    @torch.no_grad()
    def after_epoch(self, epoch: int, model: nn.Module, validation: Evaluation | None) -> dict[str, Any]:
        """Look."""
        model.eval()
        rows = []
        for batch in islice(self._loader.epoch(0), self._batches):
            images = self._prepare(batch["image"])
            own = {name: value.to(images.device) for name, value in batch.items()}
            rows.append(self._look(model(images), own).double().cpu())
        self.moments.add(torch.cat(rows, dim=1))
        return {}

    def state(self) -> TrainingState:
        """Return what a checkpoint must hold."""
        return self.moments.state()

    def restore(self, state: TrainingState) -> None:
        """Take up a state again."""
        self.moments.restore(state)
