"""Zeros that are learned in training: thresholds, the group lasso on coupled channels, or both, driven to a target."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lomt.models import TaskNetwork, load_model
from lomt.pipeline.context import Context
from lomt.pipeline.loss_batches import FirstBatches
from lomt.pipeline.run_directory import StageFolder
from lomt.pipeline.sparse_decisions import rising_epochs, target_of
from lomt.pruning.prune import analyse
from lomt.recipe import SparsifySettings
from lomt.sparsity import (
    CoupledGroupLasso,
    CoupledGroups,
    SparsityController,
    add_group_thresholds,
    add_soft_thresholds,
    bake_thresholds,
    coupled_groups,
    macs_share,
    parameters_share,
    removable_share,
)
from lomt.structure import Structure
from lomt.training import FreeRunningThresholds, Regularizer, SparseToTarget

__all__ = ["LearnedZeros"]


@dataclass(frozen=True)
class LearnedZeros:
    """Trains a network while its thresholds or its group lasso rise until the target is gone.

    Args:
        context: Of the run.
        settings: The recipe's block.
        folder: Of the stage.
    """

    context: Context
    settings: SparsifySettings
    folder: StageFolder

    def make(self) -> TaskNetwork:
        """Return the trained network with its zeros as plain weights.

        Raises:
            SparsityTargetError: If the target is out of reach, or nothing may go.
            UnknownNameError: If a component is not one of the network's.
        """
        settings, context = self.settings, self.context
        torch.manual_seed(context.recipe.seed)
        model = load_model(context.directory.path / settings.network)
        trainer = context.trainer(
            model,
            context.parts.tasks,
            settings.train,
            self.folder.path,
            name="rising",
            epochs=rising_epochs(settings),
            regularizer=self._regularizer(model),
        )
        trainer.fit()
        bake_thresholds(model)
        return model

    def facts(self) -> dict[str, Any]:
        """Return what is to be recorded beside the zeros themselves: nothing."""
        return {}

    def histories(self) -> Iterator[tuple[str, Path]]:
        """Yield a name and the file of epoch records of the training."""
        yield "rising", self.folder.path / "rising.history.jsonl"

    def clear(self) -> None:
        """Delete what is no longer needed."""
        (self.folder.path / "rising.history.jsonl").unlink(missing_ok=True)

    def _regularizer(self, model: TaskNetwork) -> Regularizer:
        """Put thresholds on the model, if the method has them, and return what drives the training."""
        settings = self.settings
        if settings.granularity == "unstructured":
            add_soft_thresholds(
                model,
                component_of=model.component_of,
                components=settings.components,
                initial_logit=settings.initial_logit,
            )
            return FreeRunningThresholds(model, target=target_of(settings)[1])
        structure = analyse(model, self._example())
        groups = coupled_groups(
            model, structure, component_of=model.component_of, components=settings.components
        )
        return SparseToTarget(self._controller(model, structure, groups))

    def _controller(
        self, model: TaskNetwork, structure: Structure, groups: CoupledGroups
    ) -> SparsityController:
        settings = self.settings
        name, share = target_of(settings)
        measures = {
            "removable": removable_share(groups),
            "params": parameters_share(groups, structure),
            "macs": macs_share(groups, structure),
        }
        uses = {"thresholds", "group_lasso"} if settings.method == "both" else {settings.method}
        return SparsityController(
            groups,
            target=share,
            start=0,
            end=rising_epochs(settings) * self._steps_per_epoch,
            measure=measures[name],
            thresholds=add_group_thresholds(model, groups, per=settings.logits)
            if "thresholds" in uses
            else None,
            lasso=CoupledGroupLasso(
                groups, lambda_=0.0, metric=settings.metric, branch_weight=settings.branch_weight
            )
            if "group_lasso" in uses
            else None,
        )

    @property
    def _steps_per_epoch(self) -> int:
        train = self.settings.train
        engine = self.context.accelerator(train)
        loader = self.context.parts.loader(
            "train", train, rank=engine.process_index, world_size=engine.num_processes
        )
        return -(-loader.batches_per_epoch // train.accumulation_steps)

    def _example(self) -> Tensor:
        return FirstBatches(self.context.parts, self.settings.train, torch.device("cpu")).example()
