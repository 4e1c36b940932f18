"""Honest latency: networks timed side by side, in random order, in several fresh processes."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Final

import onnx

from lomt.deploy.cost import count_cost
from lomt.deploy.environment import describe_environment
from lomt.deploy.fixed_shape import common_shape
from lomt.deploy.latency_gate import check_outputs
from lomt.deploy.latency_process import LatencyError, ask_worker
from lomt.deploy.latency_report import ArmLatency, LatencyReport
from lomt.deploy.latency_statistics import paired_speed_up, summarise
from lomt.deploy.latency_warnings import arm_warnings, machine_warnings, round_warnings, subnormal_warnings
from lomt.deploy.matrix_product import PRODUCT_SIZE, PRODUCT_SIZE_ON_GPU, write_product
from lomt.deploy.onnx_graph import load_network
from lomt.deploy.providers import Provider, check_provider, reads_onnx, runs_on_gpu
from lomt.deploy.session import PROVIDERS, Device
from lomt.deploy.source_file import describe_source
from lomt.errors import ArtifactError, UnknownNameError

__all__ = ["LatencyError", "measure_latency"]

_POOL: Final = 4
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Effort:
    """How much time a measurement takes; ``seconds`` and ``least_runs`` are those of one arm over all rounds."""

    rounds: int
    seconds: float
    least_runs: int
    warm_up_ms: float
    warm_up_cap_ms: float

    @property
    def warm_up(self) -> dict[str, float]:
        """What ends the warming up, as the worker's function takes it."""
        return {
            "least_runs": 10,
            "least_ms": self.warm_up_ms,
            "cap_ms": self.warm_up_cap_ms,
            "agreement": 0.02,
        }


_FULL: Final = _Effort(rounds=10, seconds=10.0, least_runs=100, warm_up_ms=500.0, warm_up_cap_ms=5000.0)
_QUICK: Final = _Effort(rounds=5, seconds=1.0, least_runs=1, warm_up_ms=20.0, warm_up_cap_ms=200.0)


def measure_latency(
    arms: Mapping[str, Path | str],
    *,
    baseline: str,
    provider: Provider = "cpu",
    device: Device = "cpu",
    threads: int = 1,
    batch: int = 1,
    input_shape: tuple[int, int, int] | None = None,
    rounds: int | None = None,
    runs_per_block: int = 10,
    seconds: float | None = None,
    seed: int = 0,
    spinning: bool = True,
    quick: bool = False,
    any_outputs: bool = False,
) -> LatencyReport:
    """Time networks against a baseline so that the machine's own noise cannot pass for a speed-up.

    First every network runs alone in a fresh process: its outputs must be finite and bear the baseline's names and
    shapes, and the memory it takes is noted. Then each round is a fresh process that opens all arms and a second copy
    of the baseline, warms each until it is stable, and times them in blocks whose order is drawn anew in every cycle.
    The ratio of a round is that of the medians; the speed-up is their geometric mean over rounds with a bootstrap
    95 % interval, and prints as a number only when the interval excludes 1, and where even the copy differs from the
    baseline, when it excludes that difference as well. At the end of a round the product of two matrices is timed, as
    the limit that achieved multiply-accumulates compare with.

    An arm gets 10 seconds and 100 runs at least, in 10 rounds; with ``quick`` a second in 5 rounds.

    Args:
        arms: Name → ONNX file, at least the baseline; with the providers ``torch`` and ``torch-compile`` name →
            factory or directory with a saved model.
        baseline: Name of the arm that the others are compared with.
        provider: What runs the networks.
        device: Where PyTorch runs, ``"cpu"`` or ``"cuda"``; ONNX files have providers for that.
        threads: Threads within an operator; operators always run one after the other.
        batch: Images a run.
        input_shape: Channels, height and width; by default, and where 0, what the baseline's file says.
        rounds: Fresh processes, at least 2; fewer than 5 make the interval unreliable.
        runs_per_block: Recorded runs before the next arm's turn.
        seconds: Recorded seconds an arm over all rounds, about; given, there is no least number of runs.
        seed: Seed of order, inputs and resampling.
        spinning: Whether onnxruntime's idle threads wait actively during a run.
        quick: Less effort where ``rounds`` and ``seconds`` are not given, for a first look.
        any_outputs: Compare networks although their outputs have other names or shapes.

    Raises:
        UnknownNameError: ``baseline`` is not among ``arms``, or there is no such provider.
        ValueError: A number is out of range, or the arms take images of another size.
        ArtifactError: A file is missing or is no ONNX network, or has several inputs.
        ProviderError: The provider is not installed or would not run a network.
        LatencyError: A network fails the check of its outputs, or the process that times fails.
    """
    if baseline not in arms:
        raise UnknownNameError("arm", baseline, arms)
    effort = _QUICK if quick else _FULL
    settings: dict[str, Any] = {
        "provider": provider,
        "device": device,
        "threads": threads,
        "batch": batch,
        "rounds": effort.rounds if rounds is None else rounds,
        "runs_per_block": runs_per_block,
        "seconds": effort.seconds if seconds is None else seconds,
        "least_runs": effort.least_runs if seconds is None else 1,
        "seed": seed,
        "spinning": spinning,
        "warm_up": effort.warm_up,
        "quick": quick,
        "any_outputs": any_outputs,
    }
    _check_settings(settings)
    networks = _networks(arms, settings)
    shape = common_shape(networks, baseline, input_shape) if networks else _given_shape(input_shape)
    settings = _complete(settings, shape)
    with TemporaryDirectory(prefix="lomt-bench-") as folder:
        return _Measurement(dict(arms), baseline, networks, settings, Path(folder)).run()


def _check_settings(settings: Mapping[str, Any]) -> None:
    for name, bound in {"threads": 1, "batch": 1, "rounds": 2, "runs_per_block": 1}.items():
        if settings[name] < bound:
            raise ValueError(f"Expected `{name}` to be at least {bound}, but got {settings[name]}.")
    if not settings["seconds"] > 0:
        raise ValueError(f"Expected `seconds` to be positive, but got {settings['seconds']}.")
    check_provider(settings["provider"], settings["device"])


def _networks(arms: Mapping[str, Path | str], settings: Mapping[str, Any]) -> dict[str, onnx.ModelProto]:
    if not reads_onnx(settings["provider"]):
        return {}
    return {name: load_network(Path(path)) for name, path in arms.items()}


def _given_shape(shape: tuple[int, int, int] | None) -> tuple[int, ...]:
    if shape is None or 0 in shape:
        raise ValueError(
            "Expected `input_shape` to say channels, height and width of the images, as PyTorch models do not, but "
            f"got {shape}."
        )
    return tuple(shape)


def _complete(settings: Mapping[str, Any], shape: Sequence[int]) -> dict[str, Any]:
    """Add what follows from the arms and what is always so: all that a reader of the report needs."""
    is_onnxruntime = settings["provider"] in PROVIDERS
    return {
        **settings,
        "input_shape": list(shape),
        "execution_provider": PROVIDERS.get(settings["provider"]),
        "inter_op_threads": 1,
        "execution": "sequential",
        "graph_optimization": "all" if is_onnxruntime else None,
        "inputs": _POOL,
    }


@dataclass(frozen=True)
class _Measurement:
    """One measurement, all settings known and checked.

    Args:
        arms: What is timed, by name.
        baseline: Name of one of them.
        networks: The ONNX files' content; empty for PyTorch.
        settings: As in the report.
        folder: For files of the moment.
    """

    arms: Mapping[str, Path | str]
    baseline: str
    networks: Mapping[str, onnx.ModelProto]
    settings: Mapping[str, Any]
    folder: Path

    def run(self) -> LatencyReport:
        """Check the networks, time them and put the report together."""
        environment = describe_environment()
        (self.folder / "engines").mkdir()
        sources = {name: self._source(path) for name, path in self.arms.items()}
        probes = {
            name: ask_worker({"kind": "probe", "path": source, "settings": self._run_settings()}, f"`{name}`")
            for name, source in sources.items()
        }
        outputs = {name: found["outputs"] for name, found in probes.items()}
        notes = check_outputs(outputs, self.baseline, may_differ=self.settings["any_outputs"])
        job = self._job([*sources.values(), sources[self.baseline]])
        rounds = []
        for number in range(self.settings["rounds"]):
            _logger.info("Timing round %d.", number + 1)
            rounds.append(ask_worker({**job, "round": number}, f"round {number + 1} of the timing"))
        return self._report(probes, rounds, environment, notes)

    def _source(self, path: Path | str) -> str:
        return str(Path(path).resolve()) if self.networks or Path(path).is_dir() else str(path)

    def _run_settings(self) -> dict[str, Any]:
        settings = self.settings
        shared = ("provider", "device", "threads", "spinning", "seed")
        return {
            **{name: settings[name] for name in shared},
            "shape": [settings["batch"], *settings["input_shape"]],
            "pool": settings["inputs"],
            "cache": str(self.folder / "engines"),
        }

    def _job(self, paths: Sequence[str]) -> dict[str, Any]:
        """Return what the worker is told in every round but for the round's number."""
        settings = self.settings
        return {
            "kind": "round",
            "paths": list(paths),
            "settings": self._run_settings(),
            "seconds": settings["seconds"] * len(paths) / settings["rounds"],
            "least_runs": -(-settings["least_runs"] // settings["rounds"]),
            "gemm": self._product(),
            **{name: settings[name] for name in ("seed", "runs_per_block", "warm_up")},
        }

    def _product(self) -> dict[str, Any]:
        provider, device = self.settings["provider"], self.settings["device"]
        size = PRODUCT_SIZE_ON_GPU if runs_on_gpu(provider, device) else PRODUCT_SIZE
        if self.networks:
            return {"source": str(write_product(size, self.folder / "product.onnx")), "size": size}
        return {"source": f"lomt.deploy.runners.torch_runner:SquareProduct?size={size}", "size": size}

    def _report(
        self,
        probes: Mapping[str, Mapping[str, Any]],
        rounds: Sequence[Mapping[str, Any]],
        environment: Mapping[str, Any],
        notes: Sequence[str],
    ) -> LatencyReport:
        baseline, seed = self.baseline, self.settings["seed"]
        rates = [own["gemm_macs_per_s"] for own in rounds if own["gemm_macs_per_s"]]
        limit = max(rates) if rates else None
        latencies = {
            name: self._arm(name, probes[name], [own["arms"][index] for own in rounds], limit)
            for index, name in enumerate(self.arms)
        }
        again = [median(own["arms"][len(self.arms)]["times_ms"]) for own in rounds]
        medians = {name: latency.round_medians_ms for name, latency in latencies.items()}
        noise_floor = paired_speed_up(medians[baseline], again, seed=seed)
        speed_ups = {
            name: paired_speed_up(medians[baseline], times, seed=seed).above_noise_of(noise_floor)
            for name, times in medians.items()
            if name != baseline
        }
        warnings = [
            *machine_warnings(environment, self.settings, noise_floor),
            *round_warnings(rounds),
            *notes,
            *arm_warnings(
                latencies, [_restless(rounds, index) for index in range(len(latencies))], self.settings
            ),
            *subnormal_warnings(self.networks),
        ]
        return LatencyReport(
            latencies,
            baseline,
            speed_ups,
            noise_floor,
            limit,
            self.settings,
            {**environment, "rounds": [_machine(own) for own in rounds]},
            tuple(warnings),
        )

    def _arm(
        self,
        name: str,
        probe: Mapping[str, Any],
        rounds: Sequence[Mapping[str, Any]],
        limit: float | None,
    ) -> ArmLatency:
        times = tuple(tuple(own["times_ms"]) for own in rounds)
        device_times = tuple(tuple(own["device_times_ms"]) for own in rounds if own["device_times_ms"])
        medians = tuple(median(single) for single in times)
        runs = [time for single in times for time in single]
        batch = self.settings["batch"]
        macs = self._macs(name)
        device_ms = median(median(single) for single in device_times) if device_times else None
        seconds = (device_ms or median(medians)) / 1e3
        builds = [own["build_ms"] for own in rounds if own["build_ms"] is not None]
        file_bytes, sha256 = describe_source(self.arms[name])
        return ArmLatency(
            path=str(self.arms[name]),
            file_bytes=file_bytes,
            sha256=sha256,
            statistics=summarise(runs),
            round_medians_ms=medians,
            load_ms=median(own["load_ms"] for own in rounds),
            build_ms=max([*builds, probe["build_ms"]]) if builds else None,
            first_run_ms=median(own["first_run_ms"] for own in rounds),
            throughput=len(runs) * batch / (sum(runs) / 1e3),
            outputs={output: tuple(facts["shape"]) for output, facts in probe["outputs"].items()},
            peak_memory_bytes=probe["peak_memory_bytes"],
            device_memory_bytes=probe["device_memory_bytes"],
            macs=macs,
            efficiency=None if macs is None or limit is None else macs / seconds / limit,
            device_ms=device_ms,
            providers=tuple(rounds[0]["providers"]),
            times_ms=times,
            device_times_ms=device_times,
        )

    def _macs(self, name: str) -> int | None:
        if name not in self.networks:
            return None
        _, *size = self.settings["input_shape"]
        images = (size[0], size[1]) if len(size) == 2 else None
        try:
            cost = count_cost(Path(self.arms[name]), batch=self.settings["batch"], size=images)
        except ArtifactError:  # shapes that onnx cannot infer: nothing is claimed
            return None
        return None if cost.uncounted else cost.macs


def _machine(found: Mapping[str, Any]) -> dict[str, Any]:
    return {name: found[name] for name in ("other_load", "clock_mhz", "gemm_macs_per_s")}


def _restless(rounds: Sequence[Mapping[str, Any]], index: int) -> int:
    return sum(not own["arms"][index]["warm_up"]["is_stable"] for own in rounds)
