"""Real speed of networks pruned to a budget of multiply-accumulates, by magnitude.

The default settings are judged; what other widths would gain is measured beside them.
"""

from collections.abc import Sequence
from typing import Any

import timm
import torch
from prune_latency import gains, images

from lomt.pruning.prune import prune

MODELS: dict[str, dict[str, Any]] = {
    "resnet50": {"zero_init_last": False},
    "mobilenetv2_100": {},
    "tf_efficientnet_lite0": {},
    "convnext_atto": {},
}
BUDGETS = (0.5, 0.25)
FURTHER: dict[str, dict[str, Any]] = {
    "macs=0.25, divisor=8": {"macs": 0.25, "divisor": 8},
    "macs=0.25, ranking=layer": {"macs": 0.25, "ranking": "layer"},
}


def measure_speed(seconds: float, models: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
    """Return gains and missed targets by name of the network.

    Args:
        seconds: Recorded for each latency.
        models: Some of `MODELS`.
    """
    return {name: _measure(name, seconds) for name in models or MODELS}


def _measure(name: str, seconds: float) -> dict[str, Any]:
    torch.manual_seed(0)
    dense, image = timm.create_model(name, **MODELS[name]).eval(), images()
    judged = {f"macs={budget}": {"macs": budget} for budget in BUDGETS}
    pruned = {key: prune(dense, image, **own).model for key, own in {**judged, **FURTHER}.items()}
    found, shared = gains(dense, pruned, image, seconds)
    return {
        "dense": shared,
        **{key: gain.to_dict() for key, gain in found.items()},
        "missed": [f"{key}: {text}" for key in judged for text in found[key].missed],
    }
