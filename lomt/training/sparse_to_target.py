"""Sparsity to a requested target, and AdapMTL's thresholds as published, as parts of training."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lomt.sparsity import SparsityController, thresholds_of
from lomt.training.checkpoint import TrainingState
from lomt.training.evaluate import Evaluation

__all__ = ["FreeRunningThresholds", "SparseToTarget"]


class SparseToTarget:
    """Let a controller bring the network to its target while it trains, and heal afterwards.

    Every epoch's record tells under ``sparsity`` the last control's goal, the share reached, the share of groups at
    zero, strength and thresholds, and whether the pattern is frozen.

    Args:
        controller: Made for the model that is trained; thresholds stand before its weights already.
    """

    def __init__(self, controller: SparsityController) -> None:
        self.controller = controller

    def attach(self, optimizer: Optimizer, model: nn.Module) -> None:
        """Let the controller follow every optimizer step."""
        self.controller.attach(optimizer)

    def before_epoch(self, epoch: int) -> None:
        """Nothing changes with the epoch."""

    def after_epoch(self, epoch: int, model: nn.Module, validation: Evaluation | None) -> dict[str, Any]:
        """Return where the sparsity is."""
        controller = self.controller
        last = controller.curve[-1] if controller.curve else None
        is_alive = controller.is_alive()
        record: dict[str, Any] = {
            "target": controller.target,
            "goal": last.goal if last else 0.0,
            "reached": controller.measure(is_alive),
            "zero": 1 - int(is_alive.count_nonzero()) / len(is_alive),
            "strength": last.strength if last else 0.0,
            "is_frozen": controller.is_frozen,
        }
        if controller.thresholds is not None:
            record["thresholds"] = controller.thresholds.thresholds
        return {"sparsity": record}

    def state(self) -> TrainingState:
        """Return what a checkpoint must hold."""
        facts = self.controller.state_dict()
        tensors: dict[str, Tensor] = {"is_dead": facts.pop("is_dead")}
        found: dict[str, Any] = {"controller": facts}
        if self.controller.lasso is not None:
            state = self.controller.lasso.state_dict()
            tensors |= {f"lasso.{name}": value for name, value in state.pop("norms").items()}
            found["lasso"] = state
        return TrainingState(tensors, found)

    def restore(self, state: TrainingState) -> None:
        """Take up a state again."""
        self.controller.load_state_dict({**state.facts["controller"], "is_dead": state.tensors["is_dead"]})
        if self.controller.lasso is not None:
            self.controller.lasso.load_state_dict({**state.facts["lasso"], "norms": state.part("lasso")})


class FreeRunningThresholds:
    r"""Let thresholds rise by themselves, as AdapMTL does, until enough is zero.

    Before every optimizer step :math:`\gamma s` is added to the gradient of each logit :math:`s`, the weight decay
    that Adam couples with its moments. Adam divides by the size of the gradient, so that the logits climb by about
    one learning rate a step whatever :math:`\gamma`: the first logit and the learning rate set the course, and the
    decay does so under SGD alone. Once the share of zeros among all weights, or groups, is at least `target`, the
    logits stay as they are; weights go on, and the share may still grow.

    Args:
        model: What is trained, with thresholds.
        target: Share of zeros, above 0 and below 1, at which the logits are frozen.
        decay: :math:`\gamma > 0`.
        check_every: Steps between looks at the share; published is 1.

    Raises:
        ValueError: If an argument is out of its range, or the model has no thresholds.

    References:
        Xiang et al., "AdapMTL: Adaptive Pruning Framework for Multitask Learning Model", 2024,
        https://arxiv.org/abs/2408.03913, and its official code.
    """

    def __init__(
        self,
        model: nn.Module,
        target: float,
        *,
        decay: float = 1e-4,
        check_every: int = 1,
    ) -> None:
        if not 0 < target < 1:
            raise ValueError(f"Expected `target` to be above 0 and below 1, but got {target}.")
        if not decay > 0:
            raise ValueError(f"Expected `decay` to be above 0, but got {decay}.")
        if check_every < 1:
            raise ValueError(f"Expected `check_every` to be at least 1, but got {check_every}.")
        self._thresholds = thresholds_of(model)
        self._target, self._decay, self._every = target, decay, check_every
        self._step, self._frozen_at = 0, None

    _frozen_at: int | None

    @property
    def frozen_at(self) -> int | None:
        """Optimizer step after which the logits stayed as they were; None before."""
        return self._frozen_at

    def attach(self, optimizer: Optimizer, model: nn.Module) -> None:
        """Let the logits rise with every optimizer step."""
        optimizer.register_step_pre_hook(self._before_step)
        optimizer.register_step_post_hook(self._after_step)

    def before_epoch(self, epoch: int) -> None:
        """Nothing changes with the epoch."""

    def after_epoch(self, epoch: int, model: nn.Module, validation: Evaluation | None) -> dict[str, Any]:
        """Return thresholds and shares of zeros, by component and in all."""
        return {
            "sparsity": {
                "target": self._target,
                "zero": self._thresholds.sparsity(),
                "components": self._thresholds.component_sparsity(),
                "thresholds": self._thresholds.thresholds,
                "is_frozen": self._frozen_at is not None,
            }
        }

    def state(self) -> TrainingState:
        """Return what a checkpoint must hold."""
        return TrainingState({}, {"step": self._step, "frozen_at": self._frozen_at})

    def restore(self, state: TrainingState) -> None:
        """Take up a state again."""
        self._step, self._frozen_at = state.facts["step"], state.facts["frozen_at"]

    @torch.no_grad()
    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        logits = self._thresholds.logits
        if self._frozen_at is not None:
            logits.grad = None
        elif logits.grad is not None:
            logits.grad.add_(logits, alpha=self._decay)

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._step += 1
        is_due = self._frozen_at is None and self._step % self._every == 0
        if is_due and self._thresholds.sparsity() >= self._target:
            self._frozen_at = self._step
