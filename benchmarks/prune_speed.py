"""Real speed of networks pruned to a budget of multiply-accumulates, by magnitude, with the default settings."""

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


def measure_speed(
    seconds: float, models: Sequence[str] | None = None, **options: Any
) -> dict[str, dict[str, Any]]:
    """Return gains and missed targets by name of the network.

    Args:
        seconds: Recorded for each latency.
        models: Some of `MODELS`.
        options: Further arguments of `lomt.prune`.
    """
    return {name: _measure(name, seconds, options) for name in models or MODELS}


def _measure(name: str, seconds: float, options: dict[str, Any]) -> dict[str, Any]:
    torch.manual_seed(0)
    dense, image = timm.create_model(name, **MODELS[name]).eval(), images()
    pruned = {f"macs={budget}": prune(dense, image, macs=budget, **options).model for budget in BUDGETS}
    found, shared = gains(dense, pruned, image, seconds)
    return {
        "dense": shared,
        **{key: gain.to_dict() for key, gain in found.items()},
        "missed": [f"{key}: {text}" for key, gain in found.items() for text in gain.missed],
    }
