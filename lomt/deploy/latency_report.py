"""What a latency measurement found, as values that print and store themselves."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from lomt.deploy.latency_statistics import LatencyStatistics, SpeedUp

__all__ = ["ArmLatency", "LatencyReport"]

_SCHEMA = 1


@dataclass(frozen=True)
class ArmLatency:
    """The times of one network.

    Attributes:
        path: The ONNX file.
        file_bytes: Its size.
        sha256: Its checksum.
        statistics: Over all recorded runs of all rounds.
        round_medians_ms: Median of each round; ratios are formed from these.
        load_ms: Median over rounds of the time to open the file.
        first_run_ms: Median over rounds of the very first run.
        times_ms: Every recorded run, by round.
    """

    path: str
    file_bytes: int
    sha256: str
    statistics: LatencyStatistics
    round_medians_ms: tuple[float, ...]
    load_ms: float
    first_run_ms: float
    times_ms: tuple[tuple[float, ...], ...]

    @property
    def median_ms(self) -> float:
        """Median of the rounds' medians."""
        return median(self.round_medians_ms)

    def to_dict(self, *, include_times: bool = False) -> dict[str, Any]:
        """Everything as plain JSON values; single runs only when asked for."""
        values = asdict(self)
        values["round_medians_ms"] = list(self.round_medians_ms)
        values["times_ms"] = [[round(time, 6) for time in times] for times in self.times_ms]
        if not include_times:
            del values["times_ms"]
        return values


@dataclass(frozen=True)
class LatencyReport:
    """Latency of several networks measured side by side; see :func:`lomt.deploy.measure_latency`.

    Attributes:
        arms: By name, in the order given.
        baseline: Name of the arm that the others are compared with.
        speed_ups: Of every arm but the baseline.
        noise_floor: The baseline against a second copy of itself: what this machine finds where nothing is.
        settings: Threads, batch, input shape, rounds and so on.
        environment: Hardware and versions; see :func:`lomt.deploy.describe_environment`.
        warnings: What a reader must know before trusting the numbers.
    """

    arms: Mapping[str, ArmLatency]
    baseline: str
    speed_ups: Mapping[str, SpeedUp]
    noise_floor: SpeedUp
    settings: Mapping[str, Any]
    environment: Mapping[str, Any]
    warnings: tuple[str, ...]

    def to_dict(self, *, include_times: bool = False) -> dict[str, Any]:
        """Everything as plain JSON values; single runs only when asked for."""
        return {
            "schema": _SCHEMA,
            "baseline": self.baseline,
            "arms": {name: arm.to_dict(include_times=include_times) for name, arm in self.arms.items()},
            "speed_ups": {name: _speed_up_to_dict(value) for name, value in self.speed_ups.items()},
            "noise_floor": _speed_up_to_dict(self.noise_floor),
            "settings": dict(self.settings),
            "environment": dict(self.environment),
            "warnings": list(self.warnings),
        }

    def __str__(self) -> str:
        settings = self.settings
        shape = "x".join(str(size) for size in settings["input_shape"])
        threads = f"{settings['threads']} thread" + ("s" if settings["threads"] != 1 else "")
        width = max(len(name) for name in [*self.arms, "network"])
        lines = [
            f"Latency on {settings['device']}, {threads}, batch {settings['batch']}, {shape}, "
            f"{settings['rounds']} rounds",
            f"{'network':{width}}  median ms    p95 ms   CoV  speed-up over {self.baseline} (95 % interval)",
            *(self._row(name, width) for name in self.arms),
            f"The baseline against itself: {self.noise_floor.ratio:.3f} "
            f"[{self.noise_floor.low:.3f}, {self.noise_floor.high:.3f}]",
        ]
        return "\n".join([*lines, *(f"Warning: {text}" for text in self.warnings)])

    def _row(self, name: str, width: int) -> str:
        arm = self.arms[name]
        numbers = f"{arm.median_ms:9.3f} {arm.statistics.p95_ms:9.3f} {arm.statistics.cov:4.0%}"
        return f"{name:{width}}  {numbers}  {self.speed_ups.get(name, 'baseline')}"


def _speed_up_to_dict(value: SpeedUp) -> dict[str, Any]:
    return {**asdict(value), "is_distinguishable": value.is_distinguishable}
