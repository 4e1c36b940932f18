"""Methods that train several copies of the network from one start and merge them."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import cycle
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lomt.errors import TrainingError
from lomt.training.weighting.target import check_target
from lomt.training.weighting.weighting import TrainingView, Weighting

__all__ = ["BranchWeighting", "flat"]


class BranchWeighting(Weighting):
    """Train one branch after the other for ``epochs_each`` epochs from the same weights, then merge; again and again.

    An epoch of the training loop is one pass of one branch, so that the number of epochs stays the number of
    passes over
    the data. Every branch begins with an empty optimizer. Running statistics of norms are not part of a branch: they
    go on through all of them.

    Args:
        weights: Weight by task name.
        target: The task whose held-out loss decides.
        branches: The tasks that each branch trains.
        epochs_each: Epochs of a branch between two merges.
        steps: Held-out batches that a merge reads.

    Raises:
        UnknownNameError: If the target is no task.
        ValueError: If a count is below 1.
    """

    start: Tensor
    ends: Tensor
    learned: Tensor
    leg: Tensor
    _first_epoch = 0
    """Epoch in which the first branch begins."""

    def __init__(
        self,
        weights: Mapping[str, float],
        target: str,
        branches: Sequence[Sequence[str]],
        *,
        epochs_each: int,
        steps: int,
    ) -> None:
        super().__init__()
        check_target(target, weights)
        for name, value in (("epochs_each", epochs_each), ("steps", steps)):
            if value < 1:
                raise ValueError(f"Expected `{name}` to be at least 1, but got {value}.")
        self._target, self._branches = target, tuple(tuple(own) for own in branches)
        self._tasks, self._epochs_each, self._steps = tuple(weights), epochs_each, steps
        self.register_buffer("learned", torch.tensor(list(weights.values()), dtype=torch.float64))
        self.register_buffer("leg", torch.zeros((), dtype=torch.long))
        self._training: TrainingView | None = None

    @abstractmethod
    def merge(self, training: TrainingView) -> tuple[Tensor, dict[str, Any]]:
        """Return the merged weights, from ``self.start`` and ``self.ends``, and what the record should say."""

    def attach(self, training: TrainingView) -> None:
        """Make room for the start and the branches' ends.

        Raises:
            TrainingError: If the last round would not be finished.
        """
        whole = len(self._branches) * self._epochs_each
        if (training.epochs - self._first_epoch) % whole or training.epochs < self._first_epoch:
            more = f"{self._first_epoch} of pilot runs and " if self._first_epoch else ""
            raise TrainingError(
                f"Expected `epochs` to be {more}a multiple of {whole}, because {len(self._branches)} branches are "
                f"trained for {self._epochs_each} epoch(s) each before they are merged, but got {training.epochs}."
            )
        self._training = training
        start = flat(training.model.parameters())
        self.register_buffer("start", start.clone())
        self.register_buffer("ends", start.new_zeros(len(self._branches), len(start)))

    def coefficients(self) -> dict[str, Tensor]:
        """Return the weights of the tasks that the branch under way trains, 0 for the others."""
        own = self._branches[int(self.leg)]
        return {
            task: weight.float() if task in own else torch.zeros(())
            for task, weight in zip(self._tasks, self.learned, strict=True)
        }

    def observe(self, losses: Mapping[str, Tensor]) -> None:
        """Losses of single steps do not matter."""

    def active(self) -> frozenset[str]:
        """Return the tasks of the branch under way."""
        return frozenset(self._branches[int(self.leg)])

    def before_epoch(self, epoch: int) -> None:
        """Begin a branch at the common start."""
        assert self._training is not None, "attached before training"
        self.leg.fill_(epoch // self._epochs_each % len(self._branches))
        if epoch % self._epochs_each:
            return
        parameters = list(self._training.model.parameters())
        if int(self.leg) == 0:
            self.start.copy_(flat(parameters))
        with torch.no_grad():
            _set(parameters, self.start)
        self._training.optimizer.state.clear()

    def after_epoch(self, epoch: int) -> dict[str, Any]:
        """Keep a branch's end; after the last one merge."""
        assert self._training is not None, "attached before training"
        if (epoch + 1) % self._epochs_each:
            return {}
        parameters = list(self._training.model.parameters())
        self.ends[int(self.leg)] = flat(parameters)
        record: dict[str, Any] = {"branch": list(self._branches[int(self.leg)])}
        if int(self.leg) == len(self._branches) - 1:
            was_training = self._training.model.training
            self._training.model.eval()
            merged, more = self.merge(self._training)
            self._training.model.train(was_training)
            with torch.no_grad():
                _set(parameters, merged)
            record |= more
        return record

    @torch.no_grad()
    def set_weights(self, training: TrainingView, weights: Float[Tensor, " weights"]) -> None:
        """Put other weights into the network."""
        _set(list(training.model.parameters()), weights)

    def held_out_batches(self, training: TrainingView) -> Iterator[Mapping[str, Tensor]]:
        """Yield as many held-out batches as a merge reads, from the first on again where there are fewer."""
        batches = cycle(range(training.held_out.batches_per_epoch))
        source = iter(training.held_out.epoch(0))
        for _, number in zip(range(self._steps), batches, strict=False):
            if number == 0:
                source = iter(training.held_out.epoch(0))
            yield next(source)

    def target_loss(
        self, training: TrainingView, weights: Float[Tensor, " weights"], batch: Mapping[str, Tensor]
    ) -> Tensor:
        """Return the target's loss on a batch with other weights, which then stay in the network."""
        with torch.no_grad():
            _set(list(training.model.parameters()), weights)
        return training.losses(training.model, batch)[self._target]


def flat(tensors: Iterable[Tensor]) -> Float[Tensor, " entries"]:
    """Return all entries one after the other, whatever the memory layout."""
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


def _set(parameters: list[torch.nn.Parameter], vector: Tensor) -> None:
    """Copy values into the parameters, whose storage the optimizer and other processes know."""
    start = 0
    for parameter in parameters:
        count = parameter.numel()
        parameter.copy_(vector[start : start + count].view(parameter.shape))
        start += count
