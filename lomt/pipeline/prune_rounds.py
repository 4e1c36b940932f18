"""Cut and train in rounds: every round begins from files and ends in files, so that a killed run goes on the same."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lomt.compress.prune import prune
from lomt.deploy.network_gauge import NetworkGauge
from lomt.models.factory import factory_candidates
from lomt.pipeline.context import Context, wait_for_all
from lomt.pipeline.loss_batches import FirstBatches
from lomt.pipeline.parts import training_options
from lomt.pipeline.run_directory import StageFolder
from lomt.pipeline.teacher import make_distillation
from lomt.pruning.importance import make_importance
from lomt.pruning.interfaces import Importance
from lomt.pruning.optimizer_state import carry_optimizer
from lomt.pruning.origin import Origin, origin_of, set_origin
from lomt.pruning.plan import PruningPlan
from lomt.pruning.prune import PruneResult
from lomt.pruning.ranking import BudgetError
from lomt.pruning.storage import load, save
from lomt.recipe.prune_settings import BUDGETS, PruneSettings
from lomt.training import recalibrate_batch_norm
from lomt.training.checkpoint import (
    TrainingState,
    load_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)

__all__ = ["Rounds", "budget_of", "counted_by", "share_kept"]

_MODEL = "structure.json"  # written last: with it a saved model is whole
_OPTIMIZER = "optimizer.checkpoint"


@dataclass(frozen=True)
class Rounds:
    """The rounds of one prune stage.

    Each has a folder ``round_<number>`` with the model as it was cut in ``cut/``, then the trained one.

    Args:
        context: Of the run.
        settings: The recipe's block.
        folder: Of the stage.
    """

    context: Context
    settings: PruneSettings
    folder: StageFolder

    @property
    def target(self) -> Path:
        """The folder of the network that is cut."""
        return self.context.directory.path / self.settings.target

    def run(self) -> tuple[nn.Module, tuple[PruningPlan, ...]]:
        """Do the rounds that have not been done; return the last one's model and every round's plan.

        What an earlier stage has taken out of the network is none of the rounds' plans.
        """
        for number in range(1, self.settings.rounds + 1):
            wait_for_all()
            is_done = (self._place(number) / _MODEL).exists()
            wait_for_all()
            if not is_done:
                self._cut_once(number)
                self._train(number)
        wait_for_all()
        model = load(self._place(self.settings.rounds))
        return model, self._own_plans(model)

    def history(self) -> Iterator[dict[str, Any]]:
        """Yield the epoch records of all rounds, each with the round's number."""
        for number in range(1, self.settings.rounds + 1):
            for line in (self._place(number) / "history.jsonl").read_text(encoding="utf-8").splitlines():
                yield {"round": number, **json.loads(line)}

    def clear(self) -> None:
        """Delete the rounds' folders."""
        for number in range(1, self.settings.rounds + 1):
            shutil.rmtree(self._place(number), ignore_errors=True)

    def _place(self, number: int) -> Path:
        return self.folder.path / f"round_{number}"

    def _before(self, number: int) -> nn.Module:
        """Return the model that a round cuts."""
        if number > 1:
            return load(self._place(number - 1))
        model = load(self.target)
        if origin_of(model).factory is None:
            (factory,) = factory_candidates(model)
            set_origin(model, Origin(factory))
        return model

    def _own_plans(self, model: nn.Module) -> tuple[PruningPlan, ...]:
        return origin_of(model).plans[self._earlier :]

    @cached_property
    def _earlier(self) -> int:
        """How many plans the network that is cut comes with."""
        return len(origin_of(load(self.target)).plans)

    def _cut_once(self, number: int) -> None:
        """Let one process cut: all have to go on with the same model."""
        cut = self._place(number) / "cut"
        if self.context.is_writer and not (cut / _MODEL).exists():
            self._cut(number, cut)
        wait_for_all()

    def _cut(self, number: int, cut: Path) -> None:
        settings, context = self.settings, self.context
        torch.manual_seed(context.recipe.seed)
        model = self._before(number).to(context.accelerator(settings.train).device)
        name, wanted, told = self._wanted(number, model)
        context.progress.message(
            f"prune: round {number} of {settings.rounds}, {settings.target} network to {told}"
        )
        try:
            result = self._pruned(model, {name: wanted})
        except BudgetError as error:
            raise BudgetError(f"Round {number} of {settings.rounds} of stage prune: {error}") from error
        if settings.recalibrate_batches:
            images = self._batches(torch.device("cpu")).images(settings.recalibrate_batches)
            recalibrate_batch_norm(result.model, images)
        if number > 1:
            state = self._carried(number - 1, model, result.model, result.plan)
            save_checkpoint(cut / _OPTIMIZER, TrainingState(state))
        save(result.model, cut)

    def _wanted(self, number: int, model: nn.Module) -> tuple[str, float, str]:
        """Return the round's budget by name, for the model it finds, and in words for the first network."""
        name, target = budget_of(self.settings)
        if name == "latency_ms":
            with NetworkGauge(model, self._example(model), threads=self.settings.threads) as gauge:
                now_ms = gauge.dense_ms()
            left = self.settings.rounds - number + 1
            wanted_ms = now_ms * min(1.0, target / now_ms) ** (1 / left) if left > 1 else target
            return name, wanted_ms, f"{wanted_ms:.3g} ms"
        wanted = target ** (number / self.settings.rounds)
        share = min(1.0, wanted / share_kept(self._own_plans(model), name))
        return name, share, f"{wanted:.1%} of its {name}"

    def _example(self, model: nn.Module) -> Tensor:
        """One image where the model is."""
        device = next(model.parameters()).device
        return self._batches(device).example()

    def _pruned(self, model: nn.Module, budget: Mapping[str, float]) -> PruneResult:
        settings = self.settings
        device = next(model.parameters()).device
        return prune(
            model,
            self._example(model),
            importance=self._importance(device),
            divisor=settings.divisor,
            ranking=settings.ranking,
            minimum=settings.minimum,
            protect=settings.protect,
            channels=budget.get("channels"),
            params=budget.get("params"),
            macs=budget.get("macs"),
            latency_ms=budget.get("latency_ms"),
            threads=settings.threads,
        )

    def _train(self, number: int) -> None:
        settings, context, place = self.settings, self.context, self._place(number)
        model = load(place / "cut")
        torch.manual_seed(context.recipe.seed + number - 1)
        state = load_checkpoint(place / "cut" / _OPTIMIZER)
        trainer = context.trainer(
            model,
            context.parts.tasks,
            settings.train,
            place,
            seed=context.recipe.seed + number - 1,
            distillation=make_distillation(context, settings.distill, self.target, settings.train),
            optimizer_state=None if state is None else state.tensors,
        )
        trainer.fit()
        if context.is_writer:
            save_checkpoint(place / _OPTIMIZER, TrainingState(trainer.optimizer_state))
            save(model, place)

    def _carried(
        self, number: int, model: nn.Module, smaller: nn.Module, plan: PruningPlan
    ) -> dict[str, Tensor]:
        """Return what the optimizer of an earlier round's model has gathered, for the smaller model."""
        state = load_checkpoint(self._place(number) / _OPTIMIZER)
        assert state is not None, "written before the model"
        optimizer = training_options(self.settings.train, 0).optimizer.build(model, [])
        restore_optimizer(optimizer, _named(model), state.tensors)
        return optimizer_tensors(carry_optimizer(optimizer, model, smaller, plan), _named(smaller))

    def _importance(self, device: torch.device) -> Importance:
        # The shares of `task_weighted` know nothing of a loss's scale.
        more = {"weights": self.context.parts.weights} if self.settings.importance == "task_weighted" else {}
        batches = self._batches(device)
        # Where the targets are its own answers, a network has no losses, and no gradients of them.
        is_own_teacher = self.settings.target == "dense" and self.context.recipe.data.targets == "original"
        losses: Callable[[nn.Module], Iterator[dict[str, Tensor]]]
        losses = partial(
            batches.squared_predictions if is_own_teacher else batches.losses, self.settings.loss_batches
        )
        return make_importance(self.settings.importance, losses, **more)

    def _batches(self, device: torch.device) -> FirstBatches:
        return FirstBatches(self.context.parts, self.settings.train, device)


def budget_of(settings: PruneSettings) -> tuple[str, float]:
    """Return the budget's name, and the share of the network to be cut that may be kept or milliseconds."""
    ((name, share),) = ((n, s) for n in BUDGETS if (s := getattr(settings, n)) is not None)
    return name, share


def counted_by(budget: str) -> str:
    """Return what tells how much of a network is left: a latency is not in the plan, its MACs are."""
    return "macs" if budget == "latency_ms" else budget


def share_kept(plans: tuple[PruningPlan, ...], budget: str) -> float:
    """Return the share of the first network that several cuts in a row have left.

    Args:
        plans: In order.
        budget: One of `channels`, `params` and `macs`.
    """
    share = 1.0
    for plan in plans:
        before, after = _counted(plan, budget)
        share *= after / before
    return share


def _counted(plan: PruningPlan, budget: str) -> tuple[int, int]:
    if budget != "channels":
        return getattr(plan, f"{budget}_before"), getattr(plan, f"{budget}_after")
    prunable = {name: count for name, count in plan.counts.items() if name not in plan.protected}
    kept = sum(len(plan.keep[name]) if name in plan.keep else count for name, count in prunable.items())
    return sum(prunable.values()), kept


def _named(model: nn.Module) -> dict[Tensor, str]:
    return {parameter: f"model.{name}" for name, parameter in model.named_parameters()}
