"""Numbers about times: the spread within an arm and the ratio between two arms."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Final

import numpy as np

__all__ = ["LatencyStatistics", "SpeedUp", "paired_speed_up", "summarise"]

_RESAMPLES: Final = 10_000
_TAIL: Final = 0.025

# 97.5 % quantiles of Student's t for 1 to 10 degrees of freedom.
_T_QUANTILES: Final = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)


@dataclass(frozen=True)
class LatencyStatistics:
    """Summary of single runs in milliseconds; ``cov`` is the standard deviation over the mean."""

    count: int
    mean_ms: float
    min_ms: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    std_ms: float
    cov: float


@dataclass(frozen=True)
class SpeedUp:
    """How many times faster an arm is than the baseline, with its 95 % confidence interval.

    It prints as a number only when the interval excludes 1 and all ratios up to ``noise``, the factor by
    which the baseline differed from itself; below 1 it is a slow-down.
    """

    ratio: float
    low: float
    high: float
    noise: float = 1.0

    @property
    def is_distinguishable(self) -> bool:
        """Whether the interval excludes everything from ``1 / noise`` to ``noise``."""
        return self.low > self.noise or self.high < 1 / self.noise

    def above_noise_of(self, floor: "SpeedUp") -> "SpeedUp":
        """Raise ``noise`` to what a measurement of the baseline against itself shows, if it shows any."""
        noise = max(floor.high, 1 / floor.low) if floor.is_distinguishable else 1.0
        return replace(self, noise=noise)

    def __str__(self) -> str:
        interval = f"[{self.low:.3f}, {self.high:.3f}]"
        return (
            f"{self.ratio:.2f}x {interval}" if self.is_distinguishable else f"not distinguishable {interval}"
        )


def summarise(times_ms: Sequence[float]) -> LatencyStatistics:
    """Summarise single runs; percentiles are interpolated linearly, the standard deviation is the sample's.

    Args:
        times_ms: At least two positive times in milliseconds.
    """
    if len(times_ms) < 2:
        raise ValueError(f"Expected `times_ms` to hold at least 2 times, but got {len(times_ms)}.")
    times = np.asarray(times_ms, dtype=np.float64)
    p50, p90, p95, p99 = (float(value) for value in np.percentile(times, [50, 90, 95, 99]))
    mean, std = float(times.mean()), float(times.std(ddof=1))
    return LatencyStatistics(len(times), mean, float(times.min()), p50, p90, p95, p99, std, std / mean)


def paired_speed_up(baseline_ms: Sequence[float], arm_ms: Sequence[float], *, seed: int = 0) -> SpeedUp:
    r"""Compute the geometric mean over rounds of baseline over arm, with a bootstrap interval.

    .. math:: \rho = \exp\Big(\tfrac1n \sum_r \log \frac{b_r}{a_r}\Big)

    Whole rounds are drawn with replacement. Plain percentiles of so few rounds give an interval that is
    too narrow; it is widened to the percentiles :math:`\Phi(\pm\sqrt{n/(n-1)}\, t_{0.975, n-1})`.

    Args:
        baseline_ms: Median time :math:`b_r` of the baseline in each round :math:`r`; at least two rounds.
        arm_ms: Median time :math:`a_r` of the arm in the same rounds.
        seed: Seed of the resampling.

    Example:
        >>> print(paired_speed_up([8.0, 8.2, 8.1], [4.0, 4.1, 4.1]))
        1.99x [1.976, 2.000]

    References:
        Tim Hesterberg, "What Teachers Should Know About the Bootstrap", 2015, section 4.4 (expanded
        percentile interval), https://arxiv.org/abs/1411.5279
    """
    if len(baseline_ms) != len(arm_ms) or len(baseline_ms) < 2:
        raise ValueError(
            "Expected `baseline_ms` and `arm_ms` to hold the same rounds, at least 2, but got "
            f"{len(baseline_ms)} and {len(arm_ms)}."
        )
    logs = np.log(np.asarray(baseline_ms, dtype=np.float64) / np.asarray(arm_ms, dtype=np.float64))
    count = len(logs)
    drawn = np.random.default_rng(seed).integers(count, size=(_RESAMPLES, count))
    tail = NormalDist().cdf(-np.sqrt(count / (count - 1)) * _t_quantile(count - 1))
    low, high = np.quantile(logs[drawn].mean(axis=1), [tail, 1 - tail])
    return SpeedUp(float(np.exp(logs.mean())), float(np.exp(low)), float(np.exp(high)))


def _t_quantile(degrees: int) -> float:
    if degrees <= len(_T_QUANTILES):
        return _T_QUANTILES[degrees - 1]
    # Cornish-Fisher expansion, good to three digits from ten degrees of freedom on.
    z = NormalDist().inv_cdf(1 - _TAIL)
    return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
