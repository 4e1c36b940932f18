"""Which channels go, and how they are taken out: plans, proofs, importances, budgets, and pruned models on disk."""

from lomt.errors import ScoreError
from lomt.pruning.apply import apply_plan, shrink_in_place
from lomt.pruning.budget import choose_channels
from lomt.pruning.importance import (
    IMPORTANCES,
    USES_LOSSES,
    BatchNormScale,
    GroupMagnitude,
    RandomScores,
    Taylor,
    make_importance,
)
from lomt.pruning.inspection import Inspection, Part, inspect_structure
from lomt.pruning.interfaces import Importance, Prunable
from lomt.pruning.optimizer_state import carry_optimizer
from lomt.pruning.plan import AttributeChange, ComponentChange, PruningPlan, Replacement, Step
from lomt.pruning.prune import PruneError, PruneResult, analyse
from lomt.pruning.ranking import RANKINGS, BudgetError, Divisor
from lomt.pruning.source import open_model
from lomt.pruning.storage import load, save
from lomt.pruning.task_importance import SquaredOutputs, SupervisedLosses, TaskTaylor
from lomt.tasks.loss_gradients import Losses

__all__ = [
    "IMPORTANCES",
    "RANKINGS",
    "USES_LOSSES",
    "AttributeChange",
    "BatchNormScale",
    "BudgetError",
    "ComponentChange",
    "Divisor",
    "GroupMagnitude",
    "Importance",
    "Inspection",
    "Losses",
    "Part",
    "Prunable",
    "PruneError",
    "PruneResult",
    "PruningPlan",
    "RandomScores",
    "Replacement",
    "ScoreError",
    "SquaredOutputs",
    "Step",
    "SupervisedLosses",
    "TaskTaylor",
    "Taylor",
    "analyse",
    "apply_plan",
    "carry_optimizer",
    "choose_channels",
    "inspect_structure",
    "load",
    "make_importance",
    "open_model",
    "save",
    "shrink_in_place",
]
