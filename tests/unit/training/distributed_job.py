"""Trains a small network sparsely on rooms and writes losses and zero pattern; run by one process or several."""

import json
import sys
from pathlib import Path

import torch
from torch import nn

from lomt.data import Augmentation, BatchLoader, RoomsDataset
from lomt.models import BackboneSpec, DecoderSpec, ModelSpec
from lomt.structure import channel_groups, zero_groups
from lomt.tasks import make_task
from lomt.training import (
    GroupLassoPath,
    OptimizerOptions,
    Trainer,
    TrainingOptions,
    evaluate,
    make_accelerator,
)


def weaken_every_other_channel(backbone: nn.Module) -> None:
    """Make half of the groups die at once: batch norm turns rounding errors of half-dead ones into differences."""
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d) and module.groups == 1:
            with torch.no_grad():
                module.weight[:, ::2] *= 1e-3


def main(out: Path) -> None:
    torch.set_num_threads(1)
    engine = make_accelerator(device="cpu")
    place = {"rank": engine.process_index, "world_size": engine.num_processes}
    rooms = RoomsDataset(32, size=(32, 48), seed=0, targets=["segmentation", "depth", "edges"])
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
    weaken_every_other_channel(model.backbone)
    path = GroupLassoPath(model.backbone, (0.2, 0.3), epochs_per_lambda=2, metric="euclidean")
    trainer = Trainer(
        model,
        tasks,
        BatchLoader(rooms, 8, shuffle=True, augmentation=Augmentation(flip=0.5), **place),
        TrainingOptions(
            epochs=path.epochs, weighting="uncertainty", optimizer=OptimizerOptions("sgd", lr=0.01)
        ),
        regularizer=path,
        accelerator=engine,
    )
    history = trainer.fit()
    test = BatchLoader(rooms, 8, shuffle=False, **place)
    result = evaluate(trainer.predict, test.epoch(0), tasks, accelerator=engine)
    if engine.is_main_process:
        pattern = {
            groups.name: zero_groups(weight, groups.axis, groups.conv_groups).tolist()
            for _, weight, groups in channel_groups(model.backbone)
        }
        losses = [record["train_loss"] for record in history]
        out.write_text(json.dumps({"pattern": pattern, "losses": losses, "metrics": result.metrics}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
