"""Nested group lasso with a lambda that rises every step, and the record of who dies when."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Adam, Optimizer

from lomt.sparsity import NestedGroupLasso, unwrapped
from lomt.training.checkpoint import TrainingState
from lomt.training.evaluate import Evaluation

__all__ = ["FeatureSelectionPath"]


class FeatureSelectionPath:
    """Let tasks lose layer after layer until little or nothing is left.

    Args:
        weights: Projections (tasks, width, channels), by layer.
        factors: Cost factor of each layer.
        tasks: Names of the tasks, in the order of the first axis.
        lambda_start: Lambda of the first step.
        lambda_stop: Lambda of the last; rising by the same factor every step.
        total_steps: Optimizer steps of the whole path.
    """

    def __init__(
        self,
        weights: Mapping[str, nn.Parameter],
        factors: Mapping[str, float],
        tasks: Sequence[str],
        *,
        lambda_start: float,
        lambda_stop: float,
        total_steps: int,
    ) -> None:
        self._weights, self._factors, self._tasks = dict(weights), dict(factors), tuple(tasks)
        self._start, self._stop, self._total = lambda_start, lambda_stop, total_steps
        self._lasso: NestedGroupLasso | None = None

    @property
    def lasso(self) -> NestedGroupLasso:
        """The proximal step; there once training has begun."""
        assert self._lasso is not None, "attached before training"
        return self._lasso

    def attach(self, optimizer: Optimizer, model: nn.Module) -> None:
        """Let every optimizer step be followed by the proximal step."""
        self._lasso = NestedGroupLasso(
            self._weights,
            self._factors,
            self._start,
            metric="adam" if isinstance(unwrapped(optimizer), Adam) else "euclidean",
            growth=(self._stop / self._start) ** (1 / self._total),
        )
        self._lasso.attach(optimizer)

    def before_epoch(self, epoch: int) -> None:
        """Do nothing: lambda goes on rising."""

    def after_epoch(self, epoch: int, model: nn.Module, validation: Evaluation | None) -> dict[str, Any]:
        """Return lambda and what is alive for the record, and the reason when nothing is left."""
        alive = self._by_task(self.lasso.alive())
        record: dict[str, Any] = {"lambda": self.lasso.lambda_, "alive_channels": alive}
        if not any(alive.values()):
            record["stop"] = "no task reads any layer any more"
        return record

    def survival(self) -> dict[str, dict[str, float]]:
        """Return by task and layer the share of the path, 0 to 1, at which the group was last alive."""
        return {
            task: {layer: int(steps[row]) / self._total for layer, steps in self.lasso.last_alive.items()}
            for row, task in enumerate(self._tasks)
        }

    def state(self) -> TrainingState:
        """Return what a checkpoint must hold."""
        state = self.lasso.state_dict()
        return TrainingState(state.pop("last_alive"), state)

    def restore(self, state: TrainingState) -> None:
        """Take up a state again."""
        self.lasso.load_state_dict({**state.facts, "last_alive": state.tensors})

    def _by_task(self, alive: Mapping[str, Any]) -> dict[str, dict[str, float]]:
        return {
            task: {
                layer: round(share, 4) for layer, shares in alive.items() if (share := float(shares[row])) > 0
            }
            for row, task in enumerate(self._tasks)
        }
