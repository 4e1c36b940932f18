"""Which channel widths run fast in onnxruntime on this machine, and the divisor that follows for a model."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Final

import onnxruntime
from torch import nn

from lomt.deploy.graph_timing import LayerTimer, time_layers
from lomt.deploy.layer_shapes import LayerShape, layer_calls
from lomt.structure import Inputs

__all__ = ["DIVISORS", "DivisorReport", "WidthCurve", "choose_divisor", "measure_divisor"]

DIVISORS: Final = (1, 2, 4, 8, 16, 32)
"""What a channel width may be made a multiple of."""

_WINDOW: Final = DIVISORS[-1]
_OFFSETS: Final = (0, 32, 16, 8, 24, 4, 12, 20, 28, 2, 10, 22, 30, 1, 9, 15, 23, 31)
_MOST_WIDTH: Final = 128
_MOST_MACS: Final = 20_000_000
_MOST_LAYERS: Final = 5
_LEAST_CHANNELS: Final = 16

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WidthCurve:
    """The times of one layer at widths around multiples of the divisors.

    Args:
        layer: The layer at its least width, in words.
        share: Fraction of the measured layers' multiply-accumulates in the model that layers like it have.
        widths: Output channels.
        macs: Multiply-accumulates at these widths.
        times_ms: Median times.
    """

    layer: str
    share: float
    widths: tuple[int, ...]
    macs: tuple[int, ...]
    times_ms: tuple[float, ...]

    def excess(self, divisor: int) -> float:
        r"""Return how much longer widths that are multiples of the divisor take than the trend, on average.

        The trend is the time per multiply-accumulate, interpolated between the multiples of 32. Odd multiples
        of the divisor are half of all its multiples, odd multiples of twice the divisor a quarter, and so on:

        .. math:: e(d) = \sum_{k \ge 0} 2^{-k-1} \operatorname{mean}_{w = d 2^k \cdot odd}
            \Big(\frac{t(w)}{trend(w)} - 1\Big)

        Args:
            divisor: One of ``DIVISORS``.
        """
        total, weight = 0.0, 0.5
        while divisor < _WINDOW:
            own = [place for place, width in enumerate(self.widths) if width % (2 * divisor) == divisor]
            total += weight * sum(self._over_trend(place) for place in own) / max(1, len(own))
            divisor, weight = 2 * divisor, weight / 2
        return total

    def _over_trend(self, place: int) -> float:
        speeds = {
            width: time / macs
            for width, macs, time in zip(self.widths, self.macs, self.times_ms, strict=True)
        }
        width = self.widths[place]
        low = width // _WINDOW * _WINDOW
        part = (width - low) / _WINDOW
        return speeds[width] / ((1 - part) * speeds[low] + part * speeds[low + _WINDOW]) - 1


@dataclass(frozen=True)
class DivisorReport:
    """The divisor for a model's channels on this machine, and how it was found.

    Args:
        divisor: The smallest one whose multiples cost no more over the trend than tolerated.
        excess: By divisor the relative time over the trend, the mean over the layers weighted by their share.
        tolerance: What is tolerated.
        curves: What was measured.
        threads: Intra-op threads.
        onnxruntime: Its version.
    """

    divisor: int
    excess: Mapping[int, float]
    tolerance: float
    curves: tuple[WidthCurve, ...]
    threads: int
    onnxruntime: str

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        return {
            **asdict(self),
            "excess": {str(divisor): excess for divisor, excess in self.excess.items()},
            "curves": [
                {**asdict(own), **{key: list(getattr(own, key)) for key in ("widths", "macs", "times_ms")}}
                for own in self.curves
            ],
        }

    def __str__(self) -> str:
        costs = ", ".join(f"{divisor}: {excess:+.1%}" for divisor, excess in self.excess.items())
        plural = "s" if self.threads > 1 else ""
        return (
            f"divisor {self.divisor}: the smallest whose multiples take at most {self.tolerance:.0%} longer than "
            f"multiples of {_WINDOW} would ({costs}), from {len(self.curves)} layers at "
            f"{len(_OFFSETS)} widths each in onnxruntime {self.onnxruntime}, {self.threads} thread{plural}"
        )


def measure_divisor(
    model: nn.Module,
    example_inputs: Inputs,
    *,
    threads: int = 1,
    tolerance: float = 0.05,
    seconds: float = 15.0,
    timer: LayerTimer = time_layers,
) -> DivisorReport:
    """Find what the model's channel widths should be multiples of on this machine.

    The kinds of layers that have most multiply-accumulates are timed, on small maps, at widths from about half of
    their own to 32 more; input and output widths vary together where both are features. Layers with several
    channels a group are left out: their widths are tied to the number of groups. The answer for the same
    layers and settings is kept while the process lives.

    Args:
        model: The network; left as it is.
        example_inputs: One tensor, several, or several by name.
        threads: Intra-op threads.
        tolerance: How much longer than the trend widths may take, relative.
        seconds: Time for the measurement, about.
        timer: What times layers.

    Raises:
        ValueError: A number is out of range, or the model has no layer to time.
    """
    if not tolerance >= 0:
        raise ValueError(f"Expected `tolerance` to be at least 0, but got {tolerance}.")
    if not seconds > 0:
        raise ValueError(f"Expected `seconds` to be positive, but got {seconds}.")
    if threads < 1:
        raise ValueError(f"Expected `threads` to be at least 1, but got {threads}.")
    shares = _shares(call.shape for call in layer_calls(model, example_inputs))
    if not shares:
        raise ValueError(
            f"Expected the model to have convolutions or linear layers of at least {_LEAST_CHANNELS} channels to time, "
            "but got none. Give the divisor as a number."
        )
    return _measure(tuple(shares.items()), threads, tolerance, seconds, timer)


def choose_divisor(curves: Sequence[WidthCurve], tolerance: float) -> tuple[int, dict[int, float]]:
    """Return the smallest divisor that costs no more than tolerated, and by divisor what it costs.

    Args:
        curves: The layers' times; at least one.
        tolerance: Relative time over the trend.
    """
    total = sum(own.share for own in curves)
    excess = {divisor: sum(own.share * own.excess(divisor) for own in curves) / total for divisor in DIVISORS}
    return next(divisor for divisor in DIVISORS if excess[divisor] <= tolerance or divisor == _WINDOW), excess


@lru_cache(maxsize=32)
def _measure(
    shares: tuple[tuple[LayerShape, float], ...],
    threads: int,
    tolerance: float,
    seconds: float,
    timer: LayerTimer,
) -> DivisorReport:
    curves = tuple(_curve(shape, share, threads, seconds / len(shares), timer) for shape, share in shares)
    divisor, excess = choose_divisor(curves, tolerance)
    report = DivisorReport(divisor, excess, tolerance, curves, threads, onnxruntime.__version__)
    _logger.info("Chose %s.", report)
    return report


def _shares(shapes: Iterable[LayerShape]) -> dict[LayerShape, float]:
    """Return the layers at the start of their windows that stand for most MACs, and what fraction each has."""
    macs: dict[LayerShape, int] = {}
    for shape in shapes:
        if shape.kind != "grouped" and shape.out_channels >= _LEAST_CHANNELS:
            base = _base(shape)
            macs[base] = macs.get(base, 0) + shape.macs
    most = sorted(macs.items(), key=lambda item: (-item[1], str(item[0])))[:_MOST_LAYERS]
    total = sum(count for _, count in most)
    return {shape: count / total for shape, count in most}


def _base(shape: LayerShape) -> LayerShape:
    starts = [_start(count) for count in (shape.in_channels, shape.out_channels)]
    if shape.kind == "depthwise":
        starts[0] = starts[1]
    return shape.with_channels(starts[0], starts[1]).shrunk(_MOST_MACS)


def _start(channels: int) -> int:
    if channels < _LEAST_CHANNELS:  # images, and other inputs that no pruning changes
        return channels
    return min(_MOST_WIDTH, max(_WINDOW, channels // 2 // _WINDOW * _WINDOW))


def _curve(shape: LayerShape, share: float, threads: int, seconds: float, timer: LayerTimer) -> WidthCurve:
    moves_inputs = shape.in_channels >= _LEAST_CHANNELS
    shapes = [
        shape.with_channels(shape.in_channels + moves_inputs * offset, shape.out_channels + offset)
        for offset in _OFFSETS
    ]
    times = timer(shapes, threads, seconds)
    return WidthCurve(
        layer=str(shape),
        share=share,
        widths=tuple(own.out_channels for own in shapes),
        macs=tuple(own.macs for own in shapes),
        times_ms=tuple(times),
    )
