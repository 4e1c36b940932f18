"""The least removal of channels with which a network is measured to be as fast as asked for."""

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from statistics import median_high
from typing import Any, Final, Protocol, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor, nn

from lomt.compress.reachable_plans import Masks, ReachablePlans
from lomt.deploy.layer_latency import fit_layer_latency
from lomt.deploy.network_gauge import NetworkGauge, PairedTimes
from lomt.pruning.ranking import BudgetError, Divisor
from lomt.structure import Inputs, Structure

__all__ = ["Gauge", "LatencyAttempt", "LatencyResult", "prune_to_latency"]

_CLOSE: Final = 0.95
_MARGIN: Final = 0.98
_logger = logging.getLogger(__name__)

Predict = Callable[[Structure, Masks], float]


@runtime_checkable
class Gauge(Protocol):
    """Times models in the engine they are meant for."""

    def __call__(self, model: nn.Module) -> PairedTimes:
        """Return the latency of a model, and of the dense one measured with it."""

    def dense_ms(self) -> float:
        """Return the latency of the dense model."""


@dataclass(frozen=True)
class LatencyAttempt:
    """A choice of channels that was built and timed.

    Args:
        macs: Fraction of the multiply-accumulates that it keeps.
        predicted_ms: What the corrected formula said.
        measured_ms: What it takes.
        dense_ms: What the dense model took at the same time.
    """

    macs: float
    predicted_ms: float
    measured_ms: float
    dense_ms: float


@dataclass(frozen=True)
class LatencyResult:
    """A choice of channels that meets a latency.

    Args:
        keep: Mask by name; those not named keep all.
        measured_ms: Its latency, at most what was asked for.
        predicted_ms: What the corrected formula said before.
        dense_ms: The dense model's latency in the same measurement.
        target_ms: What was asked for.
        history: All attempts in order, the one returned among them; none if the dense model is fast enough.
    """

    keep: Mapping[str, Bool[Tensor, " _"]]
    measured_ms: float
    predicted_ms: float
    dense_ms: float
    target_ms: float
    history: tuple[LatencyAttempt, ...]

    def to_dict(self) -> dict[str, Any]:
        """Everything but the masks, as plain JSON values."""
        numbers = {
            name: getattr(self, name) for name in ("measured_ms", "predicted_ms", "dense_ms", "target_ms")
        }
        return {**numbers, "history": [asdict(own) for own in self.history]}

    def __str__(self) -> str:
        plural = "" if len(self.history) == 1 else "s"
        return (
            f"{self.measured_ms:.3g} ms measured ({self.predicted_ms:.3g} predicted, {self.dense_ms:.3g} dense) for a "
            f"target of {self.target_ms:.3g} ms, {len(self.history)} attempt{plural}"
        )


def prune_to_latency(
    model: nn.Module,
    example_inputs: Inputs,
    latency_ms: float,
    *,
    scores: Mapping[str, Float[Tensor, " _"]],
    structure: Structure,
    build: Callable[[Masks], nn.Module],
    threads: int = 1,
    divisor: Divisor = None,
    ranking: str = "global",
    minimum: float = 0.1,
    must_stay: Mapping[str, Bool[Tensor, " _"]] | None = None,
    attempts: int = 4,
    gauge: Gauge | None = None,
    predict: Predict | None = None,
) -> LatencyResult:
    r"""Search the choice of channels whose measured latency in onnxruntime meets a target.

    A formula fitted on this machine (:class:`lomt.deploy.layer_latency.LayerLatencyModel`) says for every fraction of
    MACs what the network would take. The largest fraction that is predicted to meet the target is built,
    exported and timed in turns with the dense model. Then the formula is corrected, by the line through what it said
    and what was measured next to the target, and the search goes on until a measurement is at most, and
    at least 95 % of, the target. A machine that is slower for a while slows the dense model as well: a
    latency must be at most the target as measured, and as its ratio to the dense model's says. Of the attempts at or
    below the target the one that keeps most MACs is returned. If none was after all but one, the last one
    is the smallest network there is.

    Args:
        model: The network; left as it is.
        example_inputs: What its latency holds for.
        latency_ms: The target in milliseconds for these inputs.
        scores: One score a channel, by name, (count,); higher ones stay.
        structure: Of the model.
        build: Makes the model with the given channels from the dense one.
        threads: Intra-op threads of onnxruntime.
        divisor: What widths are multiples of, as :func:`lomt.pruning.budget.choose_channels` takes it.
        ranking: The same.
        minimum: The same.
        must_stay: The same.
        attempts: Most models to build, at least 1.
        gauge: What times models; by default onnxruntime in this process.
        predict: What predicts latencies from structure and masks; by default a formula fitted now.

    Raises:
        BudgetError: ``latency_ms`` or another argument is out of range, or no choice of channels is measured to be
            as fast; the message says what is reachable.
        UnsupportedLayerError: The exporter cannot express the model.
        LatencyError: onnxruntime cannot run the exported model.
    """
    if not 0 < latency_ms < math.inf:
        raise BudgetError(
            f"Expected `latency_ms` to be a positive number of milliseconds, but got {latency_ms}."
        )
    if attempts < 1:
        raise BudgetError(f"Expected `attempts` to be at least 1, but got {attempts}.")
    plans = ReachablePlans(
        structure, scores, divisor=divisor, ranking=ranking, minimum=minimum, must_stay=must_stay
    )
    with _opened(gauge, model, example_inputs, threads) as ready:
        dense_ms = ready.dense_ms()
        if dense_ms <= latency_ms:
            return LatencyResult({}, dense_ms, dense_ms, dense_ms, latency_ms, ())
        if predict is None:
            fitted = fit_layer_latency(model, example_inputs, structure, dense_ms, threads=threads)
            predict = fitted.predict
        return _Search(latency_ms, dense_ms, plans, ready, predict, build).run(attempts)


@contextmanager
def _opened(gauge: Gauge | None, model: nn.Module, inputs: Inputs, threads: int) -> Iterator[Gauge]:
    if gauge is not None:
        yield gauge
        return
    with NetworkGauge(model, inputs, threads=threads) as own:
        yield own


@dataclass(frozen=True, eq=False)
class _Tried:
    """A measured choice of channels, and what the formula itself says of it."""

    formula_ms: float
    keep: Masks
    attempt: LatencyAttempt


class _Search:
    """What was measured so far, the dense model included, and the correction of the formula that follows."""

    def __init__(
        self,
        target_ms: float,
        dense_ms: float,
        plans: ReachablePlans,
        gauge: Gauge,
        predict: Predict,
        build: Callable[[Masks], nn.Module],
    ) -> None:
        self._target_ms, self._plans, self._gauge = target_ms, plans, gauge
        self._predict, self._build = predict, build
        dense = LatencyAttempt(1.0, dense_ms, dense_ms, dense_ms)
        self._dense = _Tried(predict(plans.structure, {}), {}, dense)
        self._tried: dict[float, _Tried] = {}

    def run(self, attempts: int) -> LatencyResult:
        """Try until a network fits closely, nothing new is proposed, or so many were tried."""
        for number in range(attempts):
            is_last = number == attempts - 1
            macs, keep = self._plans.smallest if is_last and not self._met() else self._propose()
            if macs in self._tried or any(own.attempt.macs >= macs for own in self._met()):
                break
            tried = self._try(macs, keep)
            if self._meets(tried) and self._steady_ms(tried) >= _CLOSE * self._target_ms:
                break
        return self._result()

    def _propose(self) -> tuple[float, Masks]:
        """Return the largest choice predicted to fit and smaller than all known not to; else the smallest."""
        ceiling = self._narrowest_too_slow().attempt.macs
        start_ms, slope = self._line()
        longest_ms = (self._aim_ms() - start_ms) / slope

        def fits(macs: float, keep: Masks) -> bool:
            return macs < ceiling and self._predict(self._plans.structure, keep) <= longest_ms

        return self._plans.largest(fits)

    def _aim_ms(self) -> float:
        # Measurements scatter: every one that just failed moves the next aim a little below the target.
        aim_ms = self._target_ms * _MARGIN ** (len(self._tried) - len(self._met()))
        below_ms = max((self._steady_ms(own) for own in self._met()), default=0.0)
        return max(aim_ms, (below_ms + self._target_ms) / 2)

    def _line(self) -> tuple[float, float]:
        """Return latency at zero and slope of the line that leads from the formula to what is measured.

        It goes through the measured networks next to the target, the dense one if there is no other. Before the
        first measurement, and where that saw no gain, it is measured over predicted.
        """
        high = self._narrowest_too_slow()
        low = max(self._met(), key=lambda own: own.attempt.macs, default=None)
        low, high = (high, self._dense) if low is None else (low, high)
        low_ms, high_ms = self._steady_ms(low), self._steady_ms(high)
        if high_ms <= low_ms or high.formula_ms <= low.formula_ms:
            return 0.0, low_ms / low.formula_ms
        slope = (high_ms - low_ms) / (high.formula_ms - low.formula_ms)
        return low_ms - slope * low.formula_ms, slope

    def _steady_ms(self, own: _Tried) -> float:
        """Return a latency as it would be, had the dense model taken its usual time in that measurement."""
        usual_ms = median_high(found.attempt.dense_ms for found in (self._dense, *self._tried.values()))
        return own.attempt.measured_ms / own.attempt.dense_ms * usual_ms

    def _try(self, macs: float, keep: Masks) -> _Tried:
        formula_ms = self._predict(self._plans.structure, keep)
        start_ms, slope = self._line()
        times = self._gauge(self._build(keep))
        attempt = LatencyAttempt(macs, start_ms + slope * formula_ms, times.model_ms, times.dense_ms)
        self._tried[macs] = _Tried(formula_ms, keep, attempt)
        _logger.info(
            "At %.1f %% of the MACs %.3g ms were predicted and %.3g ms measured.",
            100 * macs,
            attempt.predicted_ms,
            attempt.measured_ms,
        )
        return self._tried[macs]

    def _safe_ms(self, own: _Tried) -> float:
        return max(own.attempt.measured_ms, self._steady_ms(own))

    def _meets(self, own: _Tried) -> bool:
        return self._safe_ms(own) <= self._target_ms

    def _met(self) -> list[_Tried]:
        return [own for own in self._tried.values() if self._meets(own)]

    def _narrowest_too_slow(self) -> _Tried:
        too_slow = [own for own in self._tried.values() if not self._meets(own)]
        return min([*too_slow, self._dense], key=lambda own: own.attempt.macs)

    def _result(self) -> LatencyResult:
        history = tuple(own.attempt for own in self._tried.values())
        met = self._met()
        if not met:
            raise BudgetError(self._out_of_reach())
        best = max(met, key=lambda own: own.attempt.macs)
        own = best.attempt
        return LatencyResult(
            best.keep, own.measured_ms, own.predicted_ms, own.dense_ms, self._target_ms, history
        )

    def _out_of_reach(self) -> str:
        fastest = min(self._tried.values(), key=self._safe_ms)
        return (
            f"Expected `latency_ms` to be at least {self._safe_ms(fastest):.3g}, the shortest measured with these "
            f"least widths, divisor and protected layers ({fastest.attempt.macs:.1%} of the MACs), but got "
            f"{self._target_ms:g}. Lower `minimum` or `divisor`, protect fewer layers, or use smaller inputs."
        )
