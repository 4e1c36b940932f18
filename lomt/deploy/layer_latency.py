"""How long a network takes with fewer channels: a formula for its layers, fitted on this machine."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

import numpy as np
from jaxtyping import Bool
from torch import Tensor, nn

from lomt.deploy.graph_timing import LayerTimer, time_layers
from lomt.deploy.layer_shapes import LayerCall, LayerShape, layer_calls
from lomt.deploy.nonnegative import nonnegative_least_squares
from lomt.structure import Inputs, Structure

__all__ = ["LatencySample", "LayerLatencyModel", "fit_layer_latency"]

Masks = Mapping[str, Bool[Tensor, " _"]]

_ANY: Final = "any"
_WIDTHS: Final = (1.0, 0.5, 0.25)
_MOST_SHAPES: Final = 24
_MOST_MACS: Final = 300_000_000
_MOST_WEIGHTS: Final = 4_000_000
_LEAST_CHANNELS: Final = 16
_STEP: Final = 8

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LatencySample:
    """One layer, how long it takes and how long the formula says.

    Args:
        shape: The layer.
        measured_ms: Median of its times.
        fitted_ms: What the formula gives.
    """

    shape: LayerShape
    measured_ms: float
    fitted_ms: float


@dataclass(frozen=True)
class LayerLatencyModel:
    r"""Formula for the latency of a network with fewer channels.

    .. math:: T = \gamma \sum_l \big(a_k + b_k M_l + c_k I_l + d_k O_l\big) + \gamma\, b \sum_p M_p
        + r \, \frac{\sum_l O_l}{\sum_l O_l^{dense}}

    over the runs :math:`l` of convolution and linear layers with :math:`M_l` multiply-accumulates, :math:`I_l`
    bytes read and :math:`O_l` bytes computed; :math:`a_k, b_k, c_k, d_k \ge 0` belong to the layer's kind
    :math:`k`. The products :math:`p` of two features, as in attention, take per MAC the mean time :math:`b` of linear
    layers, or of all where there are none. The rest :math:`r`
    (activations, additions, resizing) is what the whole dense network takes beyond its layers; it follows
    the amount of data. If the layers alone would take longer than the whole network, where they need not
    change the memory layout in between, :math:`r = 0` and :math:`\gamma < 1` brings them down.

    Args:
        coefficients: :math:`(a, b, c, d)` in ms, ms per MAC and ms per byte, by kind; ``"any"`` for kinds not
            measured.
        product_rate: :math:`b` in ms per MAC.
        calls: The layers' runs in the dense network.
        rest_ms: :math:`r`.
        scale: :math:`\gamma`.
        samples: What was measured.
        threads: Intra-op threads.
    """

    coefficients: Mapping[str, tuple[float, float, float, float]]
    product_rate: float
    calls: tuple[LayerCall, ...]
    rest_ms: float
    scale: float
    samples: tuple[LatencySample, ...]
    threads: int

    @property
    def fit_error(self) -> float:
        """Median over the measured layers of the relative difference between formula and measurement."""
        if not self.samples:
            return 0.0
        return median(abs(own.fitted_ms / own.measured_ms - 1) for own in self.samples)

    def predict(self, structure: Structure, keep: Masks) -> float:
        """Return the latency of the network with these channels in milliseconds.

        Args:
            structure: Of the network that the formula was fitted for.
            keep: Mask by name; those not named keep all.
        """
        shapes = list(self._narrowed(structure, keep))
        layers = sum(_layer_ms(self.coefficients, shape) for _, shape in shapes)
        layers += self.product_rate * _product_macs(self.calls, structure, keep)
        dense = sum(call.shape.output_bytes for call in self.calls)
        traffic = sum(shape.output_bytes for _, shape in shapes)
        return self.scale * layers + self.rest_ms * (traffic / dense if dense else 1)

    def layer_ms(self, structure: Structure, keep: Masks) -> dict[str, float]:
        """Return the time of every convolution and linear layer, all its runs together."""
        found: dict[str, float] = {}
        for layer, shape in self._narrowed(structure, keep):
            found[layer] = found.get(layer, 0.0) + self.scale * _layer_ms(self.coefficients, shape)
        return found

    def to_dict(self) -> dict[str, Any]:
        """Everything but the network itself, as plain JSON values."""
        return {
            "coefficients": {kind: list(own) for kind, own in self.coefficients.items()},
            "product_rate": self.product_rate,
            "rest_ms": self.rest_ms,
            "scale": self.scale,
            "fit_error": self.fit_error,
            "threads": self.threads,
            "samples": [
                {"layer": str(own.shape), "measured_ms": own.measured_ms, "fitted_ms": own.fitted_ms}
                for own in self.samples
            ],
        }

    def __str__(self) -> str:
        return (
            f"latency of {len(self.calls)} layers from {len(self.samples)} measured ones, {self.threads} "
            f"thread{'s' if self.threads > 1 else ''}: median fit error {self.fit_error:.1%}, "
            f"{self.rest_ms:.3f} ms beside the layers"
        )

    def _narrowed(self, structure: Structure, keep: Masks) -> Iterator[tuple[str, LayerShape]]:
        resolved = structure.resolve(keep)
        return ((call.layer, call.narrowed(resolved)) for call in self.calls)


def fit_layer_latency(
    model: nn.Module,
    example_inputs: Inputs,
    structure: Structure,
    dense_ms: float,
    *,
    threads: int = 1,
    seconds: float = 20.0,
    timer: LayerTimer = time_layers,
) -> LayerLatencyModel:
    r"""Time the model's layers at several widths and fit a formula to them.

    The layers with most MACs are timed alone at their own, half and a quarter of their width, very large ones on
    smaller maps. The coefficients minimise the sum of squared relative errors and are not negative.

    Args:
        model: The network; left as it is.
        example_inputs: As the structure was traced with.
        structure: Of the model.
        dense_ms: Measured latency of the whole network, at least above 0.
        threads: Intra-op threads.
        seconds: Time for the measurement, about.
        timer: What times layers.

    Raises:
        ValueError: ``dense_ms`` is not positive.
    """
    if not dense_ms > 0:
        raise ValueError(f"Expected `dense_ms` to be above 0, but got {dense_ms}.")
    calls = layer_calls(model, example_inputs)
    shapes = _sample_shapes([call.shape for call in calls])
    times = list(timer(shapes, threads, seconds)) if shapes else []
    coefficients, rate = _fit(shapes, times), _product_rate(shapes, times)
    layers = sum(_layer_ms(coefficients, call.shape) for call in calls)
    layers += rate * _product_macs(calls, structure, {})
    fitted = LayerLatencyModel(
        coefficients=coefficients,
        product_rate=rate,
        calls=calls,
        rest_ms=max(0.0, dense_ms - layers),
        scale=min(1.0, dense_ms / layers) if layers else 1.0,
        samples=tuple(
            LatencySample(shape, time, _layer_ms(coefficients, shape))
            for shape, time in zip(shapes, times, strict=True)
        ),
        threads=threads,
    )
    _logger.info("Fitted the %s.", fitted)
    return fitted


def _sample_shapes(shapes: Sequence[LayerShape]) -> list[LayerShape]:
    """List the largest layers of every kind at several widths, each once."""
    distinct = sorted(set(shapes), key=lambda shape: (-shape.macs, str(shape)))
    chosen: dict[LayerShape, None] = dict.fromkeys(distinct[:_MOST_SHAPES])
    for shape in distinct[_MOST_SHAPES:]:
        if all(own.kind != shape.kind for own in chosen):
            chosen[shape] = None
    return list(dict.fromkeys(_at_width(shape, width) for shape in chosen for width in _WIDTHS))


def _at_width(shape: LayerShape, width: float) -> LayerShape:
    shape = _scaled(shape, width)
    while np.prod(shape.weight_sizes, dtype=np.int64) > _MOST_WEIGHTS:
        narrower = _scaled(shape, 0.5)
        if narrower == shape:
            break
        shape = narrower
    return shape.shrunk(_MOST_MACS)


def _scaled(shape: LayerShape, width: float) -> LayerShape:
    groups = shape.groups if shape.kind == "grouped" else 1
    return shape.with_channels(
        _channels(shape.in_channels, width, groups), _channels(shape.out_channels, width, groups)
    )


def _channels(count: int, width: float, groups: int) -> int:
    per_group = count // groups
    if groups > 1:
        return groups * max(1, round(per_group * width))
    if width == 1 or per_group < _LEAST_CHANNELS:  # images and last layers keep their channels
        return per_group
    return max(_STEP, round(per_group * width / _STEP) * _STEP)


def _fit(
    shapes: Sequence[LayerShape], times: Sequence[float]
) -> dict[str, tuple[float, float, float, float]]:
    fitted = {_ANY: _coefficients(shapes, times)}
    for kind in dict.fromkeys(shape.kind for shape in shapes):
        own = [place for place, shape in enumerate(shapes) if shape.kind == kind]
        fitted[kind] = _coefficients([shapes[place] for place in own], [times[place] for place in own])
    return fitted


def _coefficients(shapes: Sequence[LayerShape], times: Sequence[float]) -> tuple[float, float, float, float]:
    if not shapes:
        return (0.0, 0.0, 0.0, 0.0)
    features = np.array([_features(shape) for shape in shapes])
    # Rows over their times: relative errors count. Columns over their maxima: numbers of one magnitude.
    units = features.max(axis=0)
    rows = features / units / np.array(times, dtype=np.float64)[:, None]
    first, second, third, fourth = (nonnegative_least_squares(rows, np.ones(len(times))) / units).tolist()
    return (first, second, third, fourth)


def _features(shape: LayerShape) -> tuple[float, float, float, float]:
    return (1.0, float(shape.macs), float(shape.input_bytes), float(shape.output_bytes))


def _layer_ms(coefficients: Mapping[str, tuple[float, float, float, float]], shape: LayerShape) -> float:
    own = coefficients.get(shape.kind, coefficients[_ANY])
    return sum(factor * feature for factor, feature in zip(own, _features(shape), strict=True))


def _product_rate(shapes: Sequence[LayerShape], times: Sequence[float]) -> float:
    measured = list(zip(shapes, times, strict=True))
    own = [pair for pair in measured if pair[0].kind == "linear"] or measured
    macs = sum(shape.macs for shape, _ in own)
    return sum(time for _, time in own) / macs if macs else 0.0


def _product_macs(calls: Sequence[LayerCall], structure: Structure, keep: Masks) -> int:
    """Count the MACs outside of the layers that were met."""
    met = {call.layer for call in calls}
    return sum(count for layer, count in structure.layer_macs(keep).items() if layer not in met)
