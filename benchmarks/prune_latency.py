"""Latency and cost of networks as they are deployed: exported to ONNX and timed side by side in onnxruntime."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from lomt.deploy import count_cost, export_onnx, measure_latency

LEAST_QUOTIENT = 0.75


@dataclass(frozen=True)
class Gain:
    """What a network gains over the dense one.

    Args:
        speed_up: Of the median latency, one thread, batch 1.
        interval: 95 % confidence interval of the speed-up.
        macs_reduction: How many times fewer multiply-accumulates the ONNX file has.
        median_ms: Latency.
        macs: Multiply-accumulates.
    """

    speed_up: float
    interval: tuple[float, float]
    macs_reduction: float
    median_ms: float
    macs: int

    @property
    def quotient(self) -> float:
        """How much of the reduction arrives as time."""
        return self.speed_up / self.macs_reduction

    @property
    def missed(self) -> list[str]:
        """The target, where it is missed."""
        if self.quotient >= LEAST_QUOTIENT:
            return []
        return [
            f"{self.macs_reduction:.2f} times fewer MACs, {self.speed_up:.2f} times faster: "
            f"{self.quotient:.2f}, below {LEAST_QUOTIENT}"
        ]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        return {
            "speed_up": round(self.speed_up, 3),
            "interval": [round(bound, 3) for bound in self.interval],
            "macs_reduction": round(self.macs_reduction, 3),
            "quotient": round(self.quotient, 3),
            "median_ms": round(self.median_ms, 3),
            "macs": self.macs,
        }


class _Named(nn.Module):
    """A network whose output has a name, as `lomt.deploy` wants."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"logits": self.model(images)}


def gains(
    dense: nn.Module, pruned: Mapping[str, nn.Module], image: Tensor, seconds: float
) -> tuple[dict[str, Gain], dict[str, Any]]:
    """Export all, time them in turns, and compare each with the dense one.

    Args:
        dense: The model before pruning.
        pruned: Smaller models, by name.
        image: (1, channels, height, width).
        seconds: Recorded for each, over all rounds.

    Returns:
        Gains by name, and what belongs to all: the dense model's latency and MACs, the noise, warnings.
    """
    with TemporaryDirectory() as folder:
        files = {
            name: export_onnx(_Named(model), image, Path(folder) / f"{name}.onnx", fixed_size=True)
            for name, model in {"dense": dense, **pruned}.items()
        }
        macs = {name: count_cost(file).macs for name, file in files.items()}
        report = measure_latency(files, baseline="dense", threads=1, seconds=seconds)
    found = {}
    for name in pruned:
        own = report.speed_ups[name]
        reduction = macs["dense"] / macs[name]
        latency = report.arms[name].median_ms
        found[name] = Gain(own.ratio, (own.low, own.high), reduction, latency, macs[name])
    shared = {
        "median_ms": round(report.arms["dense"].median_ms, 3),
        "macs": macs["dense"],
        "against_itself": round(report.noise_floor.ratio, 3),
        "warnings": list(report.warnings),
    }
    return found, shared


def images(size: int = 224) -> Tensor:
    """Return one image."""
    return torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
