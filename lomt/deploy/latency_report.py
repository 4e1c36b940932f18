"""What a latency measurement found, as values that print and store themselves."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from lomt.deploy.latency_statistics import LatencyStatistics, SpeedUp

__all__ = ["ArmLatency", "LatencyReport"]

SCHEMA = 2
"""Version of what :meth:`LatencyReport.to_dict` gives; see :mod:`lomt.deploy.latency_schema`."""


@dataclass(frozen=True)
class ArmLatency:
    """The times of one network.

    Attributes:
        path: The ONNX file, or the factory.
        file_bytes: Its size, with the weights that lie beside it; ``None`` for a factory.
        sha256: Its checksum; ``None`` for a factory.
        statistics: Over all recorded runs of all rounds, on the host's clock.
        round_medians_ms: Median of each round; ratios are formed from these.
        load_ms: Median over rounds of the time to open the file.
        build_ms: Time to build an engine for this device, where that is apart from opening it.
        first_run_ms: Median over rounds of the very first run.
        throughput: Images a second: runs times batch over the time they took together.
        outputs: The outputs' shapes by name.
        peak_memory_bytes: Most memory of a process that runs only this, above what it held before.
        device_memory_bytes: Memory in use on the GPU.
        macs: Multiply-accumulates of a run; ``None`` where they cannot be counted.
        efficiency: Multiply-accumulates a second, at the median, as a share of ``gemm_macs_per_s``, which is that of
            float32: int8, half precision, and convolutions where they are better made than products, may exceed 1.
        device_ms: Median time on the GPU's own clock.
        providers: What ran it, as the software says.
        times_ms: Every recorded run, by round.
        device_times_ms: The same on the GPU's own clock; empty elsewhere.
    """

    path: str
    file_bytes: int | None
    sha256: str | None
    statistics: LatencyStatistics
    round_medians_ms: tuple[float, ...]
    load_ms: float
    build_ms: float | None
    first_run_ms: float
    throughput: float
    outputs: Mapping[str, tuple[int, ...]]
    peak_memory_bytes: int
    device_memory_bytes: int | None
    macs: int | None
    efficiency: float | None
    device_ms: float | None
    providers: tuple[str, ...]
    times_ms: tuple[tuple[float, ...], ...]
    device_times_ms: tuple[tuple[float, ...], ...] = ()

    @property
    def median_ms(self) -> float:
        """Median of the rounds' medians."""
        return median(self.round_medians_ms)

    def to_dict(self, *, include_times: bool = False) -> dict[str, Any]:
        """Everything as plain JSON values; single runs only when asked for."""
        values = asdict(self)
        values["median_ms"] = self.median_ms
        values["round_medians_ms"] = list(self.round_medians_ms)
        values["outputs"] = {name: list(shape) for name, shape in self.outputs.items()}
        values["providers"] = list(self.providers)
        for name in ("times_ms", "device_times_ms"):
            values[name] = [[round(time, 6) for time in times] for times in values[name]]
            if not include_times:
                del values[name]
        return values


@dataclass(frozen=True)
class LatencyReport:
    """Latency of several networks measured side by side; see :func:`lomt.deploy.measure_latency`.

    Attributes:
        arms: By name, in the order given.
        baseline: Name of the arm that the others are compared with.
        speed_ups: Of every arm but the baseline.
        noise_floor: The baseline against a second copy of itself: what this machine finds where nothing is.
        gemm_macs_per_s: Multiply-accumulates a second of the product of two large float32 matrices with the same
            software, threads and machine, the best of all rounds: what ``efficiency`` is a share of.
        settings: Provider, threads, batch, input shape, rounds and so on.
        environment: Hardware and versions; see :func:`lomt.deploy.describe_environment`.
        warnings: What a reader must know before trusting the numbers.
    """

    arms: Mapping[str, ArmLatency]
    baseline: str
    speed_ups: Mapping[str, SpeedUp]
    noise_floor: SpeedUp
    gemm_macs_per_s: float | None
    settings: Mapping[str, Any]
    environment: Mapping[str, Any]
    warnings: tuple[str, ...]

    def to_dict(self, *, include_times: bool = False) -> dict[str, Any]:
        """Everything as plain JSON values; single runs only when asked for."""
        return {
            "schema": SCHEMA,
            "baseline": self.baseline,
            "arms": {name: arm.to_dict(include_times=include_times) for name, arm in self.arms.items()},
            "speed_ups": {name: _speed_up_to_dict(value) for name, value in self.speed_ups.items()},
            "noise_floor": _speed_up_to_dict(self.noise_floor),
            "gemm_macs_per_s": self.gemm_macs_per_s,
            "settings": dict(self.settings),
            "environment": dict(self.environment),
            "warnings": list(self.warnings),
        }

    @property
    def heading(self) -> str:
        """What was measured, in a line."""
        settings = self.settings
        shape = "x".join(str(size) for size in settings["input_shape"])
        threads = f"{settings['threads']} thread" + ("s" if settings["threads"] != 1 else "")
        return (
            f"Latency with provider {settings['provider']}, {threads}, batch {settings['batch']}, {shape}, "
            f"{settings['rounds']} rounds"
        )

    def rows(self) -> list[tuple[str, ...]]:
        """Return a table, headings first; a column that would be empty is left out."""
        columns = [
            ("network", [*self.arms]),
            ("median ms", [f"{arm.median_ms:.3f}" for arm in self.arms.values()]),
            ("p90", [f"{arm.statistics.p90_ms:.3f}" for arm in self.arms.values()]),
            ("p95", [f"{arm.statistics.p95_ms:.3f}" for arm in self.arms.values()]),
            ("p99", [f"{arm.statistics.p99_ms:.3f}" for arm in self.arms.values()]),
            ("CoV", [f"{arm.statistics.cov:.0%}" for arm in self.arms.values()]),
            ("GPU ms", [_shown(arm.device_ms, 1, ".3f") for arm in self.arms.values()]),
            (
                f"speed-up over {self.baseline} (95 % interval)",
                [str(self.speed_ups.get(name, "baseline")) for name in self.arms],
            ),
            ("load ms", [f"{arm.load_ms:.0f}" for arm in self.arms.values()]),
            ("build ms", [_shown(arm.build_ms, 1, ".0f") for arm in self.arms.values()]),
            ("first ms", [f"{arm.first_run_ms:.1f}" for arm in self.arms.values()]),
            ("memory MB", [f"{arm.peak_memory_bytes / 1e6:.0f}" for arm in self.arms.values()]),
            ("file MB", [_shown(arm.file_bytes, 1e6, ".2f") for arm in self.arms.values()]),
            ("M MACs", [_shown(arm.macs, 1e6, ".1f") for arm in self.arms.values()]),
            ("of GEMM", [_shown(arm.efficiency, 1, ".0%") for arm in self.arms.values()]),
        ]
        filled = [(heading, *cells) for heading, cells in columns if any(cells)]
        return list(zip(*filled, strict=True))

    def notes(self) -> list[str]:
        """Return what stands below the table: the noise and the warnings."""
        noise, limit = self.noise_floor, self.gemm_macs_per_s
        lines = [
            f"The baseline against itself: {noise.ratio:.3f} [{noise.low:.3f}, {noise.high:.3f}]",
        ]
        if limit is not None:
            lines.append(f"Peak of this machine: {limit / 1e9:.1f} G MACs/s, the product of two matrices")
        return [*lines, *(f"Warning: {text}" for text in self.warnings)]

    def __str__(self) -> str:
        rows = self.rows()
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        left = {0, *(i for i, heading in enumerate(rows[0]) if heading.startswith("speed-up"))}
        lines = [
            "  ".join(
                cell.ljust(width) if column in left else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        return "\n".join([self.heading, *lines, *self.notes()])


def _shown(value: float | None, unit: float, form: str) -> str:
    return "" if value is None else format(value / unit, form)


def _speed_up_to_dict(value: SpeedUp) -> dict[str, Any]:
    return {**asdict(value), "is_distinguishable": value.is_distinguishable}
