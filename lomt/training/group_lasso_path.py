"""Group lasso along a path of rising lambdas, as a part of training."""

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn
from torch.optim import Optimizer

from lomt.sparsity import GroupLasso, StoppingRules, measure_sparsity
from lomt.structure import LayerGroups, channel_groups
from lomt.training.checkpoint import TrainingState
from lomt.training.evaluate import Evaluation

__all__ = ["GroupLassoPath"]


class GroupLassoPath:
    """Train with one lambda after the other, each starting from the weights that the one before left.

    Args:
        module: Its layers' input channels are the groups, one set a layer, as published.
        lambdas: Strengths, rising.
        epochs_per_lambda: Epochs of training with each.
        metric: Of the proximal step: ``"euclidean"``, or ``"adam"`` for Adam's own.
        stopping: When the path ends before its last lambda.
        kinds: Which layers, see :func:`lomt.structure.channel_groups`.
    """

    def __init__(
        self,
        module: nn.Module,
        lambdas: Sequence[float],
        *,
        epochs_per_lambda: int = 1,
        metric: Literal["euclidean", "adam"] = "adam",
        stopping: StoppingRules | None = None,
        kinds: Sequence[type[nn.Module]] = (nn.Conv2d,),
    ) -> None:
        self._module, self._lambdas, self._epochs_per_lambda = module, tuple(lambdas), epochs_per_lambda
        self._metric, self._stopping, self._kinds = metric, stopping, tuple(kinds)
        self._lasso: GroupLasso | None = None

    @property
    def epochs(self) -> int:
        """How many epochs the whole path takes."""
        return len(self._lambdas) * self._epochs_per_lambda

    def attach(self, optimizer: Optimizer, model: nn.Module) -> None:
        """Let every optimizer step be followed by the proximal step."""
        self._lasso = GroupLasso(self._groups(), self._lambdas[0], metric=self._metric)
        self._lasso.attach(optimizer)

    def before_epoch(self, epoch: int) -> None:
        """Set the epoch's lambda."""
        assert self._lasso is not None, "attached before training"
        self._lasso.lambda_ = self._lambdas[min(epoch // self._epochs_per_lambda, len(self._lambdas) - 1)]

    def after_epoch(self, epoch: int, model: nn.Module, validation: Evaluation | None) -> dict[str, Any]:
        """Return lambda and sparsity for the record, and the reason when the path ends here."""
        assert self._lasso is not None, "attached before training"
        total = measure_sparsity(self._groups()).total
        record: dict[str, Any] = {
            "lambda": self._lasso.lambda_,
            "group_sparsity": total.sparsity,
            "weight_sparsity": total.weight_sparsity,
        }
        if self._stopping is not None:
            reason = self._stopping.update(total.weight_sparsity, validation.loss if validation else None)
            if reason is not None:
                record["stop"] = reason
        return record

    def _groups(self) -> list[tuple[str, Tensor, LayerGroups]]:
        return channel_groups(self._module, kinds=self._kinds)

    def state(self) -> TrainingState:
        """Return what a checkpoint must hold."""
        assert self._lasso is not None, "attached before training"
        state = self._lasso.state_dict()
        rules = self._stopping.state_dict() if self._stopping is not None else {}
        return TrainingState(state.pop("norms"), {"lasso": state, "stopping": rules})

    def restore(self, state: TrainingState) -> None:
        """Take up a state again."""
        assert self._lasso is not None, "attached before training"
        self._lasso.load_state_dict({**state.facts["lasso"], "norms": state.tensors})
        if self._stopping is not None:
            self._stopping.load_state_dict(state.facts["stopping"])
