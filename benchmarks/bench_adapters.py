"""How well an adapter's start explains what a decoder was made for: by layer, by number of images, by ridge.

    LOMT_DATA=/folder/with/nyuv2 python benchmarks/bench_adapters.py WEIGHTS

WEIGHTS is the trained network that `benchmarks/bench_adopt.py` leaves. Explained is the share of the variance on images
that the fit has not seen. Writes `benchmarks/results/adapters.json`.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from stored_results import say, store
from torch import Tensor

from lomt.data import BatchLoader, open_folder
from lomt.deploy import describe_environment
from lomt.models import Adoption, adopt
from lomt.models.adopted import Explanation, Feature

sys.path.insert(0, str(Path(__file__).parent))
from adopted_fpn import MultitaskFpn
from bench_adopt import MEAN, SIZE, STD

BATCH, HELD_OUT = 8, 64
COUNTS = (16, 32, 96, 320)
RIDGES = (0.0, 0.2, 0.5, 1.0, 2.0, 4.0, 10.0)

Features = Sequence[Mapping[str, Tensor]]


def main() -> None:
    """Measure and store."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("weights", type=Path)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "adapters.json")
    options = parser.parse_args()
    model = MultitaskFpn()
    model.load_state_dict(load_file(options.weights))
    adoption = adopt(model.eval(), [torch.zeros(1, 3, *SIZE)])
    seen = features_of(adoption)
    learn, judge = seen[: max(COUNTS) // BATCH], seen[max(COUNTS) // BATCH :]
    read = adoption.layers_read(adoption.tasks[0])
    result: dict[str, Any] = {"environment": describe_environment(), "images": COUNTS, "ridges": RIDGES}
    result["by_layer"] = {name: by_layer(adoption, name, learn, judge) for name in read}
    result["by_ridge"] = list(by_ridge(adoption, read, learn, judge))
    store(options.output, result)
    for name, rows in result["by_layer"].items():
        say(f"{name}: " + ", ".join(f"{layer} {share:.2f}" for layer, share in rows.items()))


@torch.no_grad()
def features_of(adoption: Adoption) -> list[dict[str, Tensor]]:
    """Return all layers' features of training images, batch by batch."""
    data = open_folder(Path(os.environ["LOMT_DATA"]) / "nyuv2", "train", size=SIZE, targets=[])
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    backbone = adoption.backbone_part(list(adoption.features), {}).eval()
    batches = BatchLoader(data, BATCH, shuffle=True).epoch(0)
    return [
        backbone.run((batch["image"] - mean) / std)
        for batch in islice(batches, (max(COUNTS) + HELD_OUT) // BATCH)
    ]


def by_layer(adoption: Adoption, target: str, learn: Features, judge: Features) -> dict[str, float]:
    """Return how much of a layer's features each one before it explains, with all images."""
    order, own = list(adoption.features), adoption.features
    before = [name for name in order[: order.index(target)] if own[name].node is not own[target].node]
    return {name: explained(own[name], own[target], learn, judge) for name in before}


def by_ridge(adoption: Adoption, read: Sequence[str], learn: Features, judge: Features) -> Any:
    """Yield the same between layers that are read, as maps and pooled, for every number of images and ridge."""
    own = adoption.features
    pairs = [(own[early], own[late]) for late in read[2:] for early in read[: read.index(late)]]
    deepest = own[read[-1]]
    pairs += [(own[early], replace(deepest, form="vector", shape=deepest.shape[:1])) for early in read[:-1]]
    for source, target in pairs:
        for count in COUNTS:
            shares = [explained(source, target, learn[: count // BATCH], judge, ridge) for ridge in RIDGES]
            yield {
                "source": source.name,
                "target": target.name,
                "form": target.form,
                "images": count,
                "explained": shares,
            }


@torch.no_grad()
def explained(
    source: Feature, target: Feature, learn: Features, judge: Features, ridge: float = 1.0
) -> float:
    """Return the share of the target's variance that an adapter explains on images that its fit has not seen."""
    explanation = Explanation(source, target, ridge)
    for features in learn:
        explanation.learn(features[source.name], wanted(features, target))
    for features in judge:
        explanation.judge(features[source.name], wanted(features, target))
    return explanation.share


def wanted(features: Mapping[str, Tensor], target: Feature) -> Tensor:
    """Return what an adapter is to give."""
    values = features[target.name]
    return values.mean((2, 3)) if target.form == "vector" else values


if __name__ == "__main__":
    main()
