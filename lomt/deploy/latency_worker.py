"""One job of timing in a process of its own: the job as JSON on stdin, the answer as JSON on stdout.

``python -m lomt.deploy.latency_worker`` imports only the software that it is to time: the threads of another,
torch above all, would disturb the times.
"""

import gc
import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
import psutil

from lomt.deploy.runners import Runner, RunSettings, open_runner
from lomt.deploy.runners.layer_clock import layer_times
from lomt.errors import ArtifactError, LomtError

__all__ = ["block_order", "probe", "profile", "run_round", "warm_up"]

_WINDOW_RUNS = 5
_GEMM_RUNS: Final = 4
_GEMM_S: Final = 0.2


def block_order(arms: int, cycles: int, *, seed: int, round_number: int) -> Iterator[tuple[int, ...]]:
    """Yield the order of the arms in each cycle of blocks: every arm once a cycle, at a random place.

    The first cycles are the same however many are asked for.
    """
    shuffler = random.Random(f"{seed}/{round_number}")
    for _ in range(cycles):
        yield tuple(shuffler.sample(range(arms), arms))


def warm_up(
    run: Callable[[], float], *, least_runs: int, least_ms: float, cap_ms: float, agreement: float
) -> dict[str, Any]:
    """Run until the medians of two successive windows agree, or the cap is reached.

    Args:
        run: Runs once and returns its time in milliseconds.
        least_runs: Runs before the end is considered.
        least_ms: Time before the end is considered.
        cap_ms: Time at which warming ends in any case, once ``least_runs`` are done.
        agreement: Largest relative difference of the medians that counts as agreement.

    Returns:
        ``runs``, ``is_stable`` and ``run_ms``, the median of the last window.
    """
    times: list[float] = []
    while True:
        times += [run() for _ in range(_WINDOW_RUNS)]
        if len(times) < max(least_runs, 2 * _WINDOW_RUNS):
            continue
        latest, before = median(times[-_WINDOW_RUNS:]), median(times[-2 * _WINDOW_RUNS : -_WINDOW_RUNS])
        is_stable = abs(latest - before) <= agreement * before
        if (is_stable and sum(times) >= least_ms) or sum(times) >= cap_ms:
            return {"runs": len(times), "is_stable": is_stable, "run_ms": latest}


class _Arm:
    """An open network with what was timed so far; calling it runs once and returns milliseconds."""

    def __init__(self, source: str, settings: RunSettings) -> None:
        self.runner: Runner = open_runner(source, settings)
        self._next = 0
        self.times_ms: list[float] = []
        self.device_times_ms: list[float] = []
        self.first_run_ms = self()
        self.warm_up: dict[str, Any] = {}

    def __call__(self) -> float:
        return self._run()[0]

    def _run(self) -> tuple[float, float | None]:
        self._next += 1
        return self.runner.run(self._next - 1)

    def record(self, runs: int) -> None:
        """Run once unrecorded, then so many times recorded."""
        self()
        for _ in range(runs):
            host_ms, device_ms = self._run()
            self.times_ms.append(host_ms)
            if device_ms is not None:
                self.device_times_ms.append(device_ms)

    def to_dict(self) -> dict[str, Any]:
        return {
            "times_ms": self.times_ms,
            "device_times_ms": self.device_times_ms,
            "load_ms": self.runner.load_ms,
            "build_ms": self.runner.build_ms,
            "first_run_ms": self.first_run_ms,
            "warm_up": self.warm_up,
            "providers": list(self.runner.used),
        }


def run_round(job: Mapping[str, Any]) -> dict[str, Any]:
    """Time all arms of one round, interleaved in blocks.

    The first run of a block is not recorded: it finds the caches as the arm before left them. As many cycles are
    run as fit the seconds, judged by the warm runs, and at least as many as give ``least_runs`` recorded runs.

    Args:
        job: ``paths``, what to time, in order; ``settings`` as in :class:`lomt.deploy.runners.RunSettings`;
            ``seed`` of the order; ``round`` number; ``runs_per_block``; ``seconds`` for all arms together;
            ``least_runs`` an arm; ``warm_up`` as in :func:`warm_up`; ``gemm``, ``None`` or the product of two
            matrices as a network, with its ``source`` and ``size``.

    Returns:
        ``arms`` in the order of ``paths``, the ``order`` of the blocks, ``gemm_macs_per_s``, and what the machine did
        meanwhile: ``other_load``, the cores that other processes kept busy, and ``clock_mhz`` before and after.
    """
    settings = _settings(job)
    arms = [_Arm(path, settings) for path in job["paths"]]
    for arm in arms:
        arm.warm_up = warm_up(arm, **job["warm_up"])
    block_ms = sum(arm.warm_up["run_ms"] for arm in arms) * (job["runs_per_block"] + 1)
    least = -(-job["least_runs"] // job["runs_per_block"])
    cycles = max(1, least, round(job["seconds"] * 1e3 / block_ms))
    parent = os.getppid()
    order = []
    machine = _Machine()
    gc.disable()
    for cycle in block_order(len(arms), cycles, seed=job["seed"], round_number=job["round"]):
        order.append(cycle)
        for index in cycle:
            arms[index].record(job["runs_per_block"])
        if os.getppid() != parent:
            raise SystemExit("The process that asked for the times is gone.")
    gc.enable()
    found = machine.since_then()
    return {
        "arms": [arm.to_dict() for arm in arms],
        "order": order,
        "gemm_macs_per_s": _gemm_rate(job["gemm"], settings),
        **found,
    }


def probe(job: Mapping[str, Any]) -> dict[str, Any]:
    """Run one network alone: what comes out of it, and how much memory it takes.

    Args:
        job: ``path`` and ``settings``.

    Returns:
        ``outputs``, by name ``shape``, ``dtype`` and ``is_finite``; ``peak_memory_bytes`` of the process above what it
        held before the network was opened; ``device_memory_bytes`` or ``None``; ``build_ms`` or ``None``.
    """
    settings = _settings(job)
    before = psutil.Process().memory_info().rss
    runner = open_runner(job["path"], settings)
    outputs: dict[str, dict[str, Any]] = {}
    for index in range(settings.pool):
        for name, value in _outputs(runner, index, job["path"], settings).items():
            known = outputs.setdefault(name, {"shape": list(value.shape), "dtype": str(value.dtype)})
            known["is_finite"] = known.get("is_finite", True) and bool(np.isfinite(value).all())
    return {
        "outputs": outputs,
        "peak_memory_bytes": max(0, _peak_memory() - before),
        "device_memory_bytes": runner.device_memory(),
        "build_ms": runner.build_ms,
    }


def _outputs(runner: Runner, index: int, path: str, settings: RunSettings) -> Mapping[str, np.ndarray]:
    try:
        return runner.outputs(index)
    except LomtError:
        raise
    except Exception as error:  # what runs networks has no common error class
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ArtifactError(
            f"Expected `{path}` to run on images of shape {settings.shape}, but got: {lines[0]} Give another size or "
            "batch, or export it again."
        ) from error


def profile(job: Mapping[str, Any]) -> dict[str, Any]:
    """Time the layers of one network.

    Args:
        job: ``path``, ``runs`` and ``settings``.

    Returns:
        ``layers``, each with ``name``, ``kind`` and ``ms``.
    """
    return {"layers": layer_times(job["path"], _settings(job), job["runs"])}


def _settings(job: Mapping[str, Any]) -> RunSettings:
    return RunSettings(**{**job["settings"], "shape": tuple(job["settings"]["shape"])})


def _gemm_rate(gemm: Mapping[str, Any] | None, settings: RunSettings) -> float | None:
    """Return the multiply-accumulates a second of the fastest product of two matrices."""
    if gemm is None:
        return None
    size = gemm["size"]
    shape = RunSettings(**{**vars(settings), "shape": (size, size), "pool": 1})
    runner = open_runner(gemm["source"], shape)
    fastest, began = float("inf"), time.perf_counter()
    runs = 0
    while runs < _GEMM_RUNS or time.perf_counter() - began < _GEMM_S:
        host_ms, device_ms = runner.run(0)
        fastest, runs = min(fastest, device_ms or host_ms), runs + 1
    return float(size) ** 3 / (fastest / 1e3)


class _Machine:
    """What the machine did while this process timed."""

    def __init__(self) -> None:
        self._began, self._busy, self._own = time.monotonic(), _busy_s(), time.process_time()
        self._clock = _clock_mhz()

    def since_then(self) -> dict[str, Any]:
        """Return ``other_load``, in cores, and ``clock_mhz`` at both ends; ``None`` where the system does not tell."""
        wall_s = max(time.monotonic() - self._began, 1e-9)
        others = (_busy_s() - self._busy - (time.process_time() - self._own)) / wall_s
        return {"other_load": round(max(0.0, others), 3), "clock_mhz": [self._clock, _clock_mhz()]}


def _busy_s() -> float:
    """Return the seconds that all cores together have worked since the system started."""
    times = psutil.cpu_times()._asdict()
    # Guests are contained in user time.
    idle = ("idle", "iowait", "guest", "guest_nice")
    return float(sum(value for name, value in times.items() if name not in idle))


def _clock_mhz() -> float | None:
    try:
        frequency = psutil.cpu_freq()
    except (NotImplementedError, OSError):
        return None
    return None if frequency is None else round(frequency.current, 1)


def _peak_memory() -> int:
    """Return the most memory that this process has held, in bytes."""
    status = Path("/proc/self/status")
    if (
        status.is_file()
    ):  # what the next call tells on Linux begins with the memory of the process that started this
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        if "VmHWM" in lines:
            return int(lines["VmHWM"].split()[0]) * 1024
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return int(psutil.Process().memory_info()._asdict()["peak_wset"])
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * (1 if sys.platform == "darwin" else 1024)


_KINDS: Final[Mapping[str, Callable[[Mapping[str, Any]], dict[str, Any]]]] = {
    "round": run_round,
    "probe": probe,
    "profile": profile,
}


def main() -> None:
    """Answer the job on stdin; what a user can mend goes back as ``error`` instead of a traceback."""
    job = json.load(sys.stdin)
    try:
        answer = _KINDS[job["kind"]](job)
    except LomtError as error:
        answer = {"error": str(error), "error_kind": type(error).__name__}
    sys.stdout.write(f"\n{json.dumps(answer)}\n")  # on a line of its own, whatever a model's code has printed


if __name__ == "__main__":
    main()
