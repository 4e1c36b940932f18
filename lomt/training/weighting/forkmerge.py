"""Copies trained on the target with more and more auxiliaries, merged by search."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lomt.errors import UnknownNameError
from lomt.training.weighting.branches import BranchWeighting, flat
from lomt.training.weighting.weighting import TrainingView

__all__ = ["ForkMerge"]

_SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


class ForkMerge(BranchWeighting):
    r"""Train branches on the target and its first :math:`k` auxiliaries and average them as the target likes best.

    .. math:: \theta \leftarrow \frac{\sum_b \Lambda_b \theta_b}{\sum_b \Lambda_b}

    The branch with the least held-out loss of the target gets :math:`\Lambda = 1`; each next one the best of 0,
    0.2, ..., 1 times the mean of those before it.

    Args:
        weights: Weight by task name.
        target: The target task.
        auxiliaries: The useful ones first; the recipe's order without it and without pilot runs.
        most: Largest :math:`k`.
        epochs_each: Epochs of a branch between two merges.
        steps: Held-out batches that judge a merge or a pilot run.
        pilot_epochs: For each auxiliary, epochs of a pilot run of the target and it alone, from the first weights; the
            less held-out loss of the target, the earlier the auxiliary comes. Then the branches begin, from the first
            weights again. These epochs count among those of the training; the authors take 10. 0 for no pilot runs.

    Raises:
        UnknownNameError: If the target or an auxiliary is no task.
        ValueError: If a count is out of its range, or auxiliaries are both given and to be ranked.

    References:
        ForkMerge: Mitigating Negative Transfer in Auxiliary-Task Learning, Jiang et al., 2023,
        https://arxiv.org/abs/2301.12618, algorithm 1, and its public code for the search.
    """

    pilot: Tensor
    pilot_losses: Tensor

    def __init__(
        self,
        weights: Mapping[str, float],
        *,
        target: str,
        auxiliaries: Sequence[str] | None = None,
        most: int = 2,
        epochs_each: int = 1,
        steps: int = 8,
        pilot_epochs: int = 0,
    ) -> None:
        others = [task for task in weights if task != target]
        for task in auxiliaries or ():
            if task not in others:
                raise UnknownNameError("auxiliary task", task, others)
        if pilot_epochs < 0:
            raise ValueError(f"Expected `pilot_epochs` to be at least 0, but got {pilot_epochs}.")
        if pilot_epochs and auxiliaries is not None:
            raise ValueError(
                "Expected at most one of `auxiliaries` and `pilot_epochs`, which ranks all, but got both."
            )
        ranked = list(auxiliaries if auxiliaries is not None else others)
        self._most = min(most, len(ranked))
        super().__init__(
            weights, target, _branches(target, ranked, self._most), epochs_each=epochs_each, steps=steps
        )
        self._others, self._pilot_epochs = others, pilot_epochs
        self._first_epoch = pilot_epochs * len(others)
        self.register_buffer("pilot", torch.tensor(0 if self._first_epoch else -1))
        self.register_buffer("pilot_losses", torch.full((len(others),), torch.inf, dtype=torch.float64))

    def coefficients(self) -> dict[str, Tensor]:
        """Return the weights of the tasks that the pilot run or branch under way trains, 0 for the others."""
        own = self.active()
        return {
            task: weight.float() if task in own else torch.zeros(())
            for task, weight in zip(self._tasks, self.learned, strict=True)
        }

    def active(self) -> frozenset[str]:
        """Return the tasks of the pilot run or branch under way."""
        return (
            super().active()
            if int(self.pilot) < 0
            else frozenset({self._target, self._others[int(self.pilot)]})
        )

    def before_epoch(self, epoch: int) -> None:
        """Begin a pilot run or a branch at the common start."""
        if epoch >= self._first_epoch:
            self.pilot.fill_(-1)
            super().before_epoch(epoch - self._first_epoch)
            return
        assert self._training is not None, "attached before training"
        self.pilot.fill_(epoch // self._pilot_epochs)
        if epoch % self._pilot_epochs == 0:
            self._set_to_start(self._training)

    def after_epoch(self, epoch: int) -> dict[str, Any]:
        """Judge a pilot run or keep a branch's end; after the last pilot run rank, after the last branch merge."""
        if epoch >= self._first_epoch:
            return super().after_epoch(epoch - self._first_epoch)
        assert self._training is not None, "attached before training"
        if (epoch + 1) % self._pilot_epochs:
            return {}
        loss = self._judged(self._training)
        self.pilot_losses[int(self.pilot)] = loss
        record: dict[str, Any] = {"pilot": self._others[int(self.pilot)], "pilot_loss": loss}
        if epoch + 1 == self._first_epoch:
            self._rank()
            self._set_to_start(self._training)
            record["ranking"] = list(self._branches[-1][1:])
        return record

    def get_extra_state(self) -> Tensor:
        """Return whether the auxiliaries have been ranked."""
        return torch.tensor(bool(self.pilot_losses.isfinite().all()) and self._first_epoch > 0)

    def set_extra_state(self, state: Tensor) -> None:
        """Rank the auxiliaries again, by the losses that were loaded."""
        if bool(state):
            self._rank()

    @torch.no_grad()
    def merge(self, training: TrainingView) -> tuple[Tensor, dict[str, Any]]:
        """Return the best average of the branches' ends."""
        order = sorted(range(len(self.ends)), key=lambda branch: self._loss(training, self.ends[branch]))
        shares = torch.zeros(len(self.ends), dtype=torch.float64)
        shares[order[0]] = 1.0
        for place, branch in enumerate(order[1:], 1):
            unit = float(shares.sum()) / place
            tried = {share: shares.clone() for share in _SHARES}
            for share, own in tried.items():
                own[branch] = share * unit
            shares = tried[min(_SHARES, key=lambda share: self._loss(training, self._mean(tried[share])))]
        names = ["+".join(own) for own in self._branches]
        return self._mean(shares), {"merge": dict(zip(names, shares.tolist(), strict=True))}

    def _rank(self) -> None:
        """Order the auxiliaries by their pilot runs; of equal ones the recipe's first comes first."""
        places = sorted(range(len(self._others)), key=lambda place: float(self.pilot_losses[place]))
        ranked = [self._others[place] for place in places]
        self._branches = _branches(self._target, ranked, self._most)

    def _set_to_start(self, training: TrainingView) -> None:
        """Go back to the first weights, which the start still holds, with an empty optimizer."""
        self.set_weights(training, self.start)
        training.optimizer.state.clear()

    @torch.no_grad()
    def _judged(self, training: TrainingView) -> float:
        was_training = training.model.training
        training.model.eval()
        loss = self._loss(training, flat(training.model.parameters()))
        training.model.train(was_training)
        return loss

    def _mean(self, shares: Tensor) -> Tensor:
        return (shares / shares.sum()).to(self.ends) @ self.ends

    def _loss(self, training: TrainingView, weights: Tensor) -> float:
        batches = self.held_out_batches(training)
        losses = [self.target_loss(training, weights, batch) for batch in batches]
        return float(training.mean(torch.stack(losses).mean()))


def _branches(target: str, ranked: Sequence[str], most: int) -> tuple[tuple[str, ...], ...]:
    return tuple((target, *ranked[:count]) for count in range(most + 1))
