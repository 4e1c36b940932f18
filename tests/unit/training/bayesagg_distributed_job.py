"""Trains a small network with aggregated gradients on rooms and writes its weights' sums; one process or several."""

import json
import sys
from pathlib import Path

import torch

from lomt.data import Augmentation, BatchLoader, RoomsDataset
from lomt.models import BackboneSpec, DecoderSpec, ModelSpec
from lomt.tasks import make_task
from lomt.training import OptimizerOptions, Trainer, TrainingOptions, make_accelerator

# Far from zero: what batch norm makes of rounding errors is small beside them.
KEPT = ("backbone.conv_stem.weight", "decoders.segmentation.head.weight", "decoders.depth.head.weight")


def main(out: Path) -> None:
    torch.set_num_threads(1)
    engine = make_accelerator(device="cpu")
    place = {"rank": engine.process_index, "world_size": engine.num_processes}
    rooms = RoomsDataset(16, size=(32, 48), seed=0, targets=["segmentation", "depth"])
    losses = {"segmentation": None, "depth": "mse"}
    tasks = {
        name: make_task(name, name, spec.out_channels, classes=spec.classes, loss=losses[name])
        for name, spec in rooms.targets.items()
    }
    spec = ModelSpec(
        BackboneSpec("test_efficientnet"),
        {name: DecoderSpec("linear") for name in tasks},
        {name: task.out_channels for name, task in tasks.items()},
        dict.fromkeys(tasks, True),
    )
    torch.manual_seed(0)
    model = spec.build()
    trainer = Trainer(
        model,
        tasks,
        BatchLoader(rooms, 8, shuffle=True, augmentation=Augmentation(flip=0.5), **place),
        TrainingOptions(
            epochs=1,
            optimizer=OptimizerOptions("sgd", lr=0.01),
            aggregation="bayesagg",
            aggregation_options={"samples": 4, "pixels": None},
        ),
        accelerator=engine,
    )
    trainer.fit()
    if engine.is_main_process:
        sums = {
            name: float(value.double().abs().sum())
            for name, value in model.named_parameters()
            if name in KEPT
        }
        out.write_text(json.dumps(sums))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
