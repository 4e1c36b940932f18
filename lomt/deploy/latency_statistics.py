"""Numbers about times: the spread within an arm and the ratio between two arms."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import comb
from statistics import NormalDist
from typing import Final

import numpy as np

__all__ = ["LatencyStatistics", "SpeedUp", "paired_speed_up", "summarise"]

_RESAMPLES: Final = 10_000
_TAIL: Final = 0.025
_CONFIDENCE: Final = 0.99
_RUNS_FOR_P999: Final = 10_000

# 97.5 % quantiles of Student's t for 1 to 10 degrees of freedom.
_T_QUANTILES: Final = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)


@dataclass(frozen=True)
class LatencyStatistics:
    """Summary of single runs in milliseconds.

    Attributes:
        count: Runs.
        mean_ms: Mean.
        min_ms: Fastest.
        p50_ms: Median.
        p90_ms: 90th percentile.
        p90_upper_ms: Upper bound of the 90th percentile at 99 % confidence; the slowest run where there are too few.
        p95_ms: 95th percentile.
        p99_ms: 99th percentile.
        p999_ms: 99.9th percentile; ``None`` below 10 000 runs, which do not tell it.
        std_ms: Standard deviation.
        cov: Standard deviation over the mean.
    """

    count: int
    mean_ms: float
    min_ms: float
    p50_ms: float
    p90_ms: float
    p90_upper_ms: float
    p95_ms: float
    p99_ms: float
    p999_ms: float | None
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
    times = np.sort(np.asarray(times_ms, dtype=np.float64))
    p50, p90, p95, p99 = (float(value) for value in np.percentile(times, [50, 90, 95, 99]))
    mean, std = float(times.mean()), float(times.std(ddof=1))
    return LatencyStatistics(
        count=len(times),
        mean_ms=mean,
        min_ms=float(times[0]),
        p50_ms=p50,
        p90_ms=p90,
        p90_upper_ms=float(times[_upper_bound_index(len(times), 0.9)]),
        p95_ms=p95,
        p99_ms=p99,
        p999_ms=float(np.percentile(times, 99.9)) if len(times) >= _RUNS_FOR_P999 else None,
        std_ms=std,
        cov=std / mean,
    )


def _upper_bound_index(count: int, share: float) -> int:
    """Return which of the sorted runs bounds a percentile from above, by the binomial distribution.

    The number of runs below the percentile is binomial; the bound is the first run that so many fail to reach with
    a probability of 1 % at most. The normal approximation with continuity correction is off by a run at most.
    """
    spread = NormalDist().inv_cdf(_CONFIDENCE) * np.sqrt(count * share * (1 - share))
    return min(count - 1, int(np.ceil(count * share + spread + 0.5)) - 1)


def paired_speed_up(baseline_ms: Sequence[float], arm_ms: Sequence[float], *, seed: int = 0) -> SpeedUp:
    r"""Compute the geometric mean over rounds of baseline over arm, with a bootstrap interval.

    .. math:: \rho = \exp\Big(\tfrac1n \sum_r \log \frac{b_r}{a_r}\Big)

    Whole rounds are drawn with replacement. Plain percentiles of so few rounds give an interval that is
    too narrow; it is widened to the percentiles :math:`\Phi(\pm\sqrt{n/(n-1)}\, t_{0.975, n-1})`. It also holds
    the order statistics between which the median of all possible rounds lies with at least 95 % probability whatever
    their distribution, for a machine's disturbances are not normal; below six rounds, which do not allow that, the
    fastest and the slowest round.

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
        Herbert A. David and Haikady N. Nagaraja, "Order Statistics", third edition, 2003, section 7.1 (interval of
        a quantile), https://doi.org/10.1002/0471722162
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
    rank = _sign_rank(count)
    ordered = np.sort(logs)
    low, high = min(low, ordered[rank]), max(high, ordered[-1 - rank])
    return SpeedUp(float(np.exp(logs.mean())), float(np.exp(low)), float(np.exp(high)))


def _sign_rank(count: int) -> int:
    """Return how many values at either end lie outside the interval of the median."""
    rank, tail = 0, 2.0**-count
    while tail + comb(count, rank + 1) * 2.0**-count <= _TAIL:
        rank += 1
        tail += comb(count, rank) * 2.0**-count
    return rank


def _t_quantile(degrees: int) -> float:
    if degrees <= len(_T_QUANTILES):
        return _T_QUANTILES[degrees - 1]
    # Cornish-Fisher expansion, good to three digits from ten degrees of freedom on.
    z = NormalDist().inv_cdf(1 - _TAIL)
    return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
