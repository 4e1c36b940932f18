"""Trains a small network to a sparsity target and writes losses, thresholds and pattern; by one process or several.

A second argument names how the tasks' gradients are aggregated.
"""

import json
import sys
from pathlib import Path

import torch

from lomt.data import Augmentation, BatchLoader, RoomsDataset
from lomt.models import BackboneSpec, DecoderSpec, ModelSpec
from lomt.sparsity import (
    CoupledGroupLasso,
    SparsityController,
    add_group_thresholds,
    bake_thresholds,
    coupled_groups,
)
from lomt.structure import trace_structure
from lomt.tasks import make_task
from lomt.training import OptimizerOptions, SparseToTarget, Trainer, TrainingOptions, make_accelerator


def main(out: Path, aggregation: str | None = None) -> None:
    torch.set_num_threads(1)
    engine = make_accelerator(device="cpu")
    place = {"rank": engine.process_index, "world_size": engine.num_processes}
    rooms = RoomsDataset(32, size=(32, 48), seed=0, targets=["segmentation", "depth"])
    tasks = {
        name: make_task(name, name, spec.out_channels, classes=spec.classes)
        for name, spec in rooms.targets.items()
    }
    spec = ModelSpec(
        BackboneSpec("test_efficientnet"),
        {name: DecoderSpec("linear") for name in tasks},
        {name: task.out_channels for name, task in tasks.items()},
        {name: True for name in tasks},
    )
    torch.manual_seed(0)
    model = spec.build()
    structure = trace_structure(model, torch.rand(1, 3, 32, 48))
    groups = coupled_groups(model, structure, component_of=model.component_of)
    # Half of the groups are clearly the first to go: batch norm turns rounding errors into differences.
    groups.scale(torch.where(torch.arange(groups.count) % 2 == 0, 1e-2, 1.0).double())
    thresholds = add_group_thresholds(model, groups, per="stage")
    controller = SparsityController(
        groups, 0.45, start=2, end=8, every=2, thresholds=thresholds, lasso=CoupledGroupLasso(groups, 0.0)
    )
    trainer = Trainer(
        model,
        tasks,
        BatchLoader(rooms, 8, shuffle=True, augmentation=Augmentation(flip=0.5), **place),
        TrainingOptions(
            epochs=3,
            weighting="adaptive",
            aggregation=aggregation,
            optimizer=OptimizerOptions("sgd", lr=0.01),
        ),
        regularizer=SparseToTarget(controller),
        accelerator=engine,
    )
    history = trainer.fit()
    bake_thresholds(model)
    if engine.is_main_process:
        result = {
            "pattern": groups.zeros().tolist(),
            "losses": [record["train_loss"] for record in history],
            "thresholds": [list(point.thresholds.values()) for point in controller.curve],
            "reached": controller.curve[-1].reached,
        }
        out.write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
