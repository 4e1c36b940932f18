"""A network that lomt did not write, trained by its owner's few lines, and then made smaller: with labels, and without.

    LOMT_DATA=/folder/with/nyuv2 LOMT_WEIGHTS=/folder/with/weights python benchmarks/bench_adopt.py --work /tmp/adopt

The network is `benchmarks/adopted_fpn.py`. It is trained here by a plain loop, saved, and handed to two recipes: one
that learns from the labels of the training images, and one that has only the images, whose targets are the network's
own predictions. Both are judged on the labelled test split. A second call goes on where the first ended. Writes
`benchmarks/results/adopt.json`; exit status 1 if a target is missed.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from stored_results import say, store
from torch import Tensor
from torch.nn import functional

from lomt.data import Augmentation, BatchLoader, open_folder
from lomt.deploy import describe_environment
from lomt.pipeline import run
from lomt.recipe import parse_recipe

sys.path.insert(0, str(Path(__file__).parent))
from adopted_fpn import CHANNELS, MultitaskFpn

SIZE, BATCH, EPOCHS, RATE = (96, 128), 8, 10, 2e-3
MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)  # of the encoder's ImageNet weights
TARGETS = {"labels": 0.0, "images_only": -3.0}  # delta_m in percent
SPEED_UP = 3.0
_RESULT = Path(__file__).parent / "results" / "adopt.json"


def main() -> None:
    """Train what is not trained, run both recipes, store and judge."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--work", type=Path, required=True, help="where weights and runs go")
    parser.add_argument("--only", choices=tuple(TARGETS), help="one of the recipes")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of the owner's training")
    parser.add_argument("--set", action="append", default=[], help="change a key of both recipes")
    parser.add_argument("--output", type=Path, default=_RESULT)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    weights = options.work / "fpn.safetensors"
    if not weights.exists():
        train(weights, options.epochs)
    result: dict[str, Any] = json.loads(options.output.read_text()) if options.output.exists() else {}
    result["environment"] = describe_environment()
    for name in [options.only] if options.only else TARGETS:
        summary = run(parse_recipe(recipe(name, weights), options.set), options.work / name, progress=Lines())
        print(summary, flush=True)
        result[name] = summary.to_dict()
        store(options.output, result)
    sys.exit("\n".join(missed(result)) or None)


def train(path: Path, epochs: int) -> None:
    """Train as the owner did: a plain loop over the losses' sum."""
    torch.manual_seed(0)
    model = MultitaskFpn()
    entries = load_file(Path(os.environ["LOMT_WEIGHTS"]) / "tf_efficientnet_lite0.safetensors")
    found = model.encoder.model.load_state_dict(entries, strict=False)
    assert not found.missing_keys, found.missing_keys
    data = open_folder(Path(os.environ["LOMT_DATA"]) / "nyuv2", "train", size=SIZE, targets=list(CHANNELS))
    loader = BatchLoader(data, BATCH, shuffle=True, augmentation=Augmentation(), drop_last=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    steps = epochs * loader.batches_per_epoch
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    model.train().to(memory_format=torch.channels_last)
    for epoch in range(epochs):
        total = 0.0
        for batch in loader.epoch(epoch):
            loss = torch.stack(list(losses(model(prepared(batch["image"])), batch))).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        say(f"epoch {epoch + 1} of {epochs}: loss {total / loader.batches_per_epoch:.4f}")
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path)


def prepared(images: Tensor) -> Tensor:
    """Return images as the network takes them."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return ((images - mean) / std).contiguous(memory_format=torch.channels_last)


def losses(predictions: dict[str, Tensor], batch: dict[str, Tensor]) -> Iterator[Tensor]:
    """Yield cross entropy, absolute error in metres, and one minus the cosine between normals."""
    yield functional.cross_entropy(predictions["segmentation"], batch["segmentation"].long(), ignore_index=-1)
    depth = batch["depth"]
    yield (predictions["depth"] - depth).abs()[depth > 0].mean()
    normals = batch["normals"]
    is_known = normals.square().sum(1) > 0.5
    yield 1 - functional.cosine_similarity(predictions["normals"], normals, dim=1)[is_known].mean()


def recipe(name: str, weights: Path) -> dict[str, Any]:
    """Return the recipe that learns from labels or from images only."""
    return {
        "name": name,
        "data": {
            "kind": "folder",
            "root": "nyuv2",
            "size": list(SIZE),
            "mean": list(MEAN),
            "std": list(STD),
            **({"targets": "original"} if name == "images_only" else {}),
        },
        "tasks": {task: {"kind": task} for task in CHANNELS},
        "model": {
            "factory": f"{Path(__file__).with_name('adopted_fpn.py')}:MultitaskFpn",
            "weights": str(weights.resolve()),
            "backbone": "encoder",
        },
        "train": {
            "epochs": 8,
            "batch_size": BATCH,
            "optimizer": {"lr": 1e-3},
            "schedule": {"kind": "one_cycle"},
        },
        "locate": {
            "lambdas": {"start": 1.5e-3, "stop": 1.5e-3, "count": 1},
            "rule": "steepest_fall",
            "train": {"epochs": 1, "optimizer": {"lr": 3e-4}, "schedule": {"kind": "constant"}},
        },
        "rewire": {"start": "dense", "train": {"epochs": 12}},
        "prune": {
            "macs": 0.175,
            "importance": "task_weighted",
            "distill": {"weight": 1.0},
            "pruned_only": False,
            "train": {"epochs": 16, "optimizer": {"lr": 2e-3}},
        },
        "bench": {"threads": [1], "rounds": 40, "seconds": 20},
    }


def missed(result: dict[str, Any]) -> list[str]:
    """Return what is missed, a sentence each."""
    problems = []
    for name, bound in TARGETS.items():
        if name in result:
            speed = result[name]["speed_ups"]["1"]["pruned"]["low"]
            if speed < SPEED_UP:
                problems.append(f"{name}: {speed:.2f} times as fast at least, fewer than {SPEED_UP:g}")
            percent = 100 * result[name]["delta_m"]
            if percent < bound:
                problems.append(f"{name}: delta_m {percent:+.1f} %, less than {bound:g} %")
    return problems


class Lines:
    """Progress as lines."""

    def start(self, description: str, total: int, done: int = 0) -> None:
        """Say what begins."""
        say(description)

    def advance(self, count: int = 1, **figures: float) -> None:
        """Say nothing of a step."""

    def finish(self, note: str = "") -> None:
        """Say why something ended early."""
        if note:
            say(note)

    def message(self, text: str) -> None:
        """Say a sentence."""
        say(text)


if __name__ == "__main__":
    main()
