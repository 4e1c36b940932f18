"""All that changes while a model trains, as one state and back from it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lomt.training.checkpoint import TrainingState, optimizer_tensors, restore_optimizer
from lomt.training.interfaces import Regularizer
from lomt.training.live_tasks import LiveTasks
from lomt.training.schedules import Patience, PlateauFactor
from lomt.training.weighting import Weighting

__all__ = ["Position", "Resumable"]


@dataclass
class Position:
    """How far a training has come.

    Args:
        sums: Losses of the epoch's steps so far, added up, (tasks,).
        taken: How many of these steps computed each task, (tasks,).
        epoch: The epoch, from 0.
        batch: Batches of the epoch that were read.
        step: Optimizer steps of the whole training.
        stop: Why training ends before its last epoch; None where it does not.
        best: Weights with the best validation loss so far; empty where they are not kept.
    """

    sums: Tensor
    taken: Tensor
    epoch: int = 0
    batch: int = 0
    step: int = 0
    stop: str | None = None
    best: dict[str, Tensor] = field(default_factory=dict)


@dataclass(eq=False)
class Resumable:
    """The parts of a training whose state a checkpoint holds, random numbers among them.

    Restored parts go on exactly as the stored ones would have; made before any task's decoder is taken out.

    Args:
        model: In training.
        weighting: Of its tasks.
        optimizer: Of the parameters of both.
        live: The tasks that still take part.
        patience: Of early stopping.
        plateau: Of the learning rate, where the schedule has one.
        regularizer: Where there is one.
        position: How far training has come.
        aggregation: Where it gathers something from step to step.
    """

    model: nn.Module
    weighting: Weighting
    optimizer: Optimizer
    live: LiveTasks
    patience: Patience
    plateau: PlateauFactor | None
    regularizer: Regularizer | None
    position: Position
    aggregation: nn.Module | None = None
    names: Mapping[Tensor, str] = field(init=False)
    """Of the parameters, ``model.<parameter>`` or ``weighting.<parameter>``."""

    def __post_init__(self) -> None:
        self.names = {p: f"model.{n}" for n, p in self.model.named_parameters()}
        self.names |= {p: f"weighting.{n}" for n, p in self.weighting.named_parameters()}

    def state(self) -> TrainingState:
        """Return the state, its tensors still shared with the parts."""
        at = self.position
        tensors = {f"model.{n}": v for n, v in self.model.state_dict().items()}
        tensors |= {f"weighting.{n}": v for n, v in self.weighting.state_dict().items()}
        tensors |= {f"optimizer.{n}": v for n, v in optimizer_tensors(self.optimizer, self.names).items()}
        tensors |= {f"best.{n}": v for n, v in at.best.items()}
        tensors |= {f"retired.{n}": v for n, v in self.live.waiting().items()}
        tensors |= {"sums": at.sums, "taken": at.taken, "random.cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            tensors["random.cuda"] = torch.cuda.get_rng_state()
        facts: dict[str, Any] = {
            "epoch": at.epoch,
            "batch": at.batch,
            "step": at.step,
            "stop": at.stop,
            "retired": sorted(self.live.retired),
            "patience": self.patience.state(),
            "plateau": self.plateau.state() if self.plateau else None,
        }
        if self.aggregation is not None:
            tensors |= {f"aggregation.{n}": v for n, v in self.aggregation.state_dict().items()}
        if self.regularizer is not None:
            state = self.regularizer.state()
            tensors |= {f"regularizer.{n}": v for n, v in state.tensors.items()}
            facts["regularizer"] = dict(state.facts)
        return TrainingState(tensors, facts)

    def restore(self, state: TrainingState) -> None:
        """Take up a state that such parts returned."""
        facts, at = state.facts, self.position
        self.live.retire(facts["retired"])
        for task in facts["retired"]:
            self.live.load_waiting(task, state.part(f"retired.{task}"))
        self.model.load_state_dict(state.part("model"))
        self.weighting.load_state_dict(state.part("weighting"))
        restore_optimizer(self.optimizer, self.names, state.part("optimizer"))
        at.best = state.part("best")
        at.sums.copy_(state.tensors["sums"])
        at.taken.copy_(state.tensors["taken"])
        at.epoch, at.batch, at.step, at.stop = (facts[name] for name in ("epoch", "batch", "step", "stop"))
        self.patience.restore(facts["patience"])
        if self.plateau is not None and facts["plateau"] is not None:
            self.plateau.restore(facts["plateau"])
        if self.aggregation is not None:
            self.aggregation.load_state_dict(state.part("aggregation"))
        if self.regularizer is not None:
            self.regularizer.restore(TrainingState(state.part("regularizer"), facts["regularizer"]))
        torch.set_rng_state(state.tensors["random.cpu"])
        if torch.cuda.is_available() and "random.cuda" in state.tensors:
            torch.cuda.set_rng_state(state.tensors["random.cuda"])
