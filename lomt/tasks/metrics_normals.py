"""Metrics of surface normals."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from lomt.tasks.metrics import MetricInfo, Metrics, ratio

__all__ = ["NormalsMetrics"]

_BINS_PER_DEG = 100
_BINS = 180 * _BINS_PER_DEG
_LIMITS_DEG = (11.25, 22.5, 30.0)


@dataclass(frozen=True)
class NormalsMetrics(Metrics):
    """Angles between predicted and true normals over all labelled pixels of the set, in degrees.

    ``within_<d>`` is the fraction of angles below ``d`` degrees. The median comes from a histogram with bins
    of 0.01 degrees and is exact to half a bin. A predicted zero vector counts as 90 degrees off.

    References:
        Data-driven 3D primitives for single image understanding, Fouhey, Gupta and Hebert, 2013,
        https://doi.org/10.1109/ICCV.2013.421.
    """

    infos: ClassVar = (
        MetricInfo("mean_deg", "deg", higher_is_better=False),
        MetricInfo("median_deg", "deg", higher_is_better=False),
        MetricInfo("within_11.25", "fraction", higher_is_better=True),
        MetricInfo("within_22.5", "fraction", higher_is_better=True),
        MetricInfo("within_30", "fraction", higher_is_better=True),
    )

    @property
    def length(self) -> int:
        return 1 + len(_LIMITS_DEG) + _BINS

    def _statistics(self, prediction: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        angles = _angles_deg(prediction, target).masked_select(valid.squeeze(1))
        bins = angles.mul(_BINS_PER_DEG).nan_to_num().long().clamp(0, _BINS - 1)
        histogram = torch.bincount(bins, minlength=_BINS).double()
        summands = [angles, *(angles < limit for limit in _LIMITS_DEG)]
        sums = torch.stack([summand.sum(dtype=torch.float64) for summand in summands])
        return torch.cat([sums, histogram])

    def _compute(self, statistics: Tensor) -> dict[str, float]:
        total, *within = statistics[:-_BINS].tolist()
        histogram = statistics[-_BINS:]
        count = float(histogram.sum())
        fractions = {f"within_{d:g}": ratio(n, count) for d, n in zip(_LIMITS_DEG, within, strict=True)}
        return {"mean_deg": ratio(total, count), "median_deg": _median_deg(histogram), **fractions}


def _angles_deg(
    first: Float[Tensor, "batch 3 height width"], second: Float[Tensor, "batch 3 height width"]
) -> Float[Tensor, "batch height width"]:
    """Measure angles by the arc tangent: near 0 the arc cosine errs by 0.02 degrees in float32.

    Components are written out, as ``cross`` and ``norm`` along a strided axis are twenty times slower.
    """
    scale = first.abs().amax(dim=1, keepdim=True)
    x, y, z = (first / scale).unbind(1)  # neither overflow nor underflow below
    u, v, w = second.unbind(1)
    sine = ((y * w - z * v).square() + (z * u - x * w).square() + (x * v - y * u).square()).sqrt()
    angles = torch.atan2(sine, x * u + y * v + z * w).rad2deg()
    return torch.where(scale.squeeze(1) == 0, 90.0, angles)


def _median_deg(histogram: Float64[Tensor, " bins"]) -> float:
    """Find the middle of the bin of the middle angle, or the mean of two such where their number is even."""
    cumulative = histogram.cumsum(0)
    count = int(cumulative[-1])
    if count == 0:
        return math.nan
    ranks = torch.tensor([(count - 1) // 2, count // 2], dtype=torch.float64)
    bins = torch.searchsorted(cumulative, ranks, right=True)
    return float((bins.double() + 0.5).mean()) / _BINS_PER_DEG
