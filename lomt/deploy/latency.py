"""Honest latency: networks timed side by side, in random order, in several fresh processes."""

import hashlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import onnx

import lomt
from lomt.deploy.environment import describe_environment
from lomt.deploy.latency_report import ArmLatency, LatencyReport
from lomt.deploy.latency_statistics import paired_speed_up, summarise
from lomt.deploy.latency_warnings import arm_warnings, machine_warnings, subnormal_warnings
from lomt.deploy.onnx_graph import load_network
from lomt.deploy.session import PROVIDERS, Device, check_device
from lomt.errors import LomtError, UnknownNameError

__all__ = ["LatencyError", "measure_latency"]

_WORKER: Final = "lomt.deploy.latency_worker"
_POOL: Final = 4
_logger = logging.getLogger(__name__)


class LatencyError(LomtError, RuntimeError):
    """A latency measurement that could not be made."""


@dataclass(frozen=True)
class _Effort:
    """How much time a measurement takes; ``seconds`` are those recorded for one arm over all rounds."""

    rounds: int
    seconds: float
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


_FULL: Final = _Effort(rounds=5, seconds=3.0, warm_up_ms=100.0, warm_up_cap_ms=500.0)
_QUICK: Final = _Effort(rounds=5, seconds=0.3, warm_up_ms=20.0, warm_up_cap_ms=100.0)


def measure_latency(
    arms: Mapping[str, Path],
    *,
    baseline: str,
    threads: int = 1,
    batch: int = 1,
    input_shape: tuple[int, int, int] | None = None,
    rounds: int | None = None,
    runs_per_block: int = 10,
    seconds: float | None = None,
    seed: int = 0,
    device: Device = "cpu",
    spinning: bool = True,
    quick: bool = False,
) -> LatencyReport:
    """Time ONNX files against a baseline so that the machine's own noise cannot pass for a speed-up.

    Each round is a fresh process that opens all arms and a second copy of the baseline, warms each until it
    is stable, and times them in blocks whose order is drawn anew in every cycle. The ratio of a round is that
    of the medians; the speed-up is their geometric mean over rounds with a bootstrap 95 % interval, and
    prints as a number only when the interval excludes 1, and where even the copy differs from the baseline,
    when it excludes that difference as well. Two arms take about 10 to 20 seconds, ``quick`` about 3.

    Args:
        arms: Name → ONNX file, at least the baseline. Files with different outputs may be compared.
        baseline: Name of the arm that the others are compared with.
        threads: Intra-op threads of onnxruntime; operators always run one after the other.
        batch: Images a run.
        input_shape: Channels, height and width; by default what the baseline's file says.
        rounds: Fresh processes, at least 2; fewer than the default 5 make the interval unreliable.
        runs_per_block: Recorded runs before the next arm's turn.
        seconds: Recorded seconds an arm over all rounds, about; by default 3, quick 0.3.
        seed: Seed of order, inputs and resampling.
        device: ``"cpu"`` or ``"cuda"``; on a GPU inputs and outputs stay there and copies are not timed.
        spinning: Whether idle threads wait actively during a run.
        quick: Less effort where ``rounds`` and ``seconds`` are not given, for a first look.

    Raises:
        UnknownNameError: ``baseline`` is not among ``arms``.
        ValueError: A number is out of range, or the arms take images of another size.
        ArtifactError: A file is missing or is no ONNX network.
        ProviderError: onnxruntime was built without the device.
        LatencyError: The process that times failed.
    """
    if baseline not in arms:
        raise UnknownNameError("arm", baseline, arms)
    effort = _QUICK if quick else _FULL
    settings: dict[str, Any] = {
        "threads": threads,
        "batch": batch,
        "rounds": effort.rounds if rounds is None else rounds,
        "runs_per_block": runs_per_block,
        "seconds": effort.seconds if seconds is None else seconds,
        "seed": seed,
        "device": device,
        "spinning": spinning,
        "warm_up": effort.warm_up,
    }
    _check_settings(settings)
    networks = {name: load_network(Path(path)) for name, path in arms.items()}
    settings = _complete(settings, _common_shape(networks, baseline, input_shape))
    environment = describe_environment()
    job = _job([*arms.values(), arms[baseline]], settings)
    answers = [_run_worker({**job, "round": number}) for number in range(settings["rounds"])]
    return _report(arms, baseline, answers, networks, settings, environment)


def _check_settings(settings: Mapping[str, Any]) -> None:
    for name, bound in {"threads": 1, "batch": 1, "rounds": 2, "runs_per_block": 1}.items():
        if settings[name] < bound:
            raise ValueError(f"Expected `{name}` to be at least {bound}, but got {settings[name]}.")
    if not settings["seconds"] > 0:
        raise ValueError(f"Expected `seconds` to be positive, but got {settings['seconds']}.")
    check_device(settings["device"])


def _complete(settings: Mapping[str, Any], shape: Sequence[int]) -> dict[str, Any]:
    """Add what follows from the arms and what is always so: all that a reader of the report needs."""
    return {
        **settings,
        "input_shape": list(shape),
        "provider": PROVIDERS[settings["device"]],
        "inter_op_threads": 1,
        "execution": "sequential",
        "graph_optimization": "all",
        "inputs": _POOL,
    }


def _job(paths: Sequence[Path], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the worker is told in every round but for the round's number."""
    shared = ("device", "threads", "spinning", "seed", "runs_per_block", "warm_up")
    return {
        "paths": [str(Path(path).resolve()) for path in paths],
        "shape": [settings["batch"], *settings["input_shape"]],
        "pool": settings["inputs"],
        "seconds": settings["seconds"] * len(paths) / settings["rounds"],
        **{name: settings[name] for name in shared},
    }


def _common_shape(
    networks: Mapping[str, onnx.ModelProto], baseline: str, wanted: tuple[int, int, int] | None
) -> tuple[int, ...]:
    shape = tuple(wanted) if wanted is not None else _image_shape(networks[baseline])
    if 0 in shape:
        raise ValueError(
            f"Expected `input_shape`, as `{baseline}` leaves its size open (0 in {shape}), but got None."
        )
    for name, network in networks.items():
        sizes = _image_shape(network)
        if len(sizes) != len(shape) or any(
            size not in (0, own) for size, own in zip(sizes, shape, strict=True)
        ):
            raise ValueError(
                f"Expected all arms to take images of shape {shape}, but got {sizes} for `{name}`. Export "
                "it for that size, or give another `input_shape`."
            )
    return shape


def _image_shape(network: onnx.ModelProto) -> tuple[int, ...]:
    return tuple(size.dim_value for size in network.graph.input[0].type.tensor_type.shape.dim[1:])


def _run_worker(job: Mapping[str, Any]) -> dict[str, Any]:
    """Run one round in a fresh process, which never outlives this call."""
    _logger.info("Timing round %d.", job["round"] + 1)
    root = str(Path(lomt.__file__).resolve().parent.parent)
    paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    with subprocess.Popen(
        [sys.executable, "-m", _WORKER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    ) as worker:
        try:
            out, err = worker.communicate(json.dumps(job))
        finally:
            worker.kill()  # does nothing to a process that has ended
    return _read_answer(out, err, worker.returncode, job["round"] + 1)


def _read_answer(out: str, err: str, status: int, number: int) -> dict[str, Any]:
    if status != 0:
        last = (err.strip().splitlines() or ["nothing on its error stream"])[-1]
        raise LatencyError(
            f"Expected round {number} of the timing to end well, but its process ended with status {status}: "
            f"{last}"
        )
    answer: dict[str, Any] = json.loads(out)
    if "error" in answer:
        raise LatencyError(answer["error"])
    return answer


def _report(
    arms: Mapping[str, Path],
    baseline: str,
    answers: Sequence[Mapping[str, Any]],
    networks: Mapping[str, onnx.ModelProto],
    settings: Mapping[str, Any],
    environment: Mapping[str, Any],
) -> LatencyReport:
    latencies = {
        name: _arm_latency(Path(path), [answer["arms"][index] for answer in answers])
        for index, (name, path) in enumerate(arms.items())
    }
    again = [median(answer["arms"][len(arms)]["times_ms"]) for answer in answers]
    medians = {name: latency.round_medians_ms for name, latency in latencies.items()}
    seed = settings["seed"]
    noise_floor = paired_speed_up(medians[baseline], again, seed=seed)
    speed_ups = {
        name: paired_speed_up(medians[baseline], times, seed=seed).above_noise_of(noise_floor)
        for name, times in medians.items()
        if name != baseline
    }
    warnings = [
        *machine_warnings(environment, settings, noise_floor),
        *(
            text
            for index, (name, latency) in enumerate(latencies.items())
            for text in arm_warnings(name, latency, _restless(answers, index), settings)
        ),
        *subnormal_warnings(networks),
    ]
    return LatencyReport(latencies, baseline, speed_ups, noise_floor, settings, environment, tuple(warnings))


def _arm_latency(path: Path, rounds: Sequence[Mapping[str, Any]]) -> ArmLatency:
    times = tuple(tuple(found["times_ms"]) for found in rounds)
    content = path.read_bytes()
    return ArmLatency(
        path=str(path),
        file_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        statistics=summarise([time for single in times for time in single]),
        round_medians_ms=tuple(median(single) for single in times),
        load_ms=median(found["load_ms"] for found in rounds),
        first_run_ms=median(found["first_run_ms"] for found in rounds),
        times_ms=times,
    )


def _restless(answers: Sequence[Mapping[str, Any]], index: int) -> int:
    return sum(not answer["arms"][index]["warm_up"]["is_stable"] for answer in answers)
