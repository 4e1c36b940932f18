"""One round of timing in a process of its own: a job as JSON on stdin, times as JSON on stdout.

``python -m lomt.deploy.latency_worker`` never imports torch: its threads would disturb the times.
"""

import gc
import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnxruntime

from lomt.deploy.session import Device, open_session
from lomt.errors import LomtError

__all__ = ["block_order", "run_round", "warm_up"]

_WINDOW_RUNS = 5


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
    """An open network with its inputs in place; calling it runs once and returns milliseconds."""

    def __init__(self, path: str, job: dict[str, Any], images: Sequence[np.ndarray]) -> None:
        device: Device = job["device"]
        started = time.perf_counter()
        self._session = open_session(
            Path(path), threads=job["threads"], device=device, spinning=job["spinning"]
        )
        self.load_ms = (time.perf_counter() - started) * 1e3
        self._bindings = [self._bind(image, device) for image in images]
        self._next = 0
        self.times_ms: list[float] = []
        self.first_run_ms = self()
        self.warm_up: dict[str, Any] = {}

    def _bind(self, image: np.ndarray, device: Device) -> onnxruntime.IOBinding:
        # Inputs and outputs stay on the device, so that copies are not timed.
        binding = self._session.io_binding()
        value = onnxruntime.OrtValue.ortvalue_from_numpy(image, device, 0)
        binding.bind_ortvalue_input(self._session.get_inputs()[0].name, value)
        for output in self._session.get_outputs():
            binding.bind_output(output.name, device, 0)
        return binding

    def __call__(self) -> float:
        binding = self._bindings[self._next % len(self._bindings)]
        self._next += 1
        started = time.perf_counter_ns()
        self._session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return (time.perf_counter_ns() - started) / 1e6

    def to_dict(self) -> dict[str, Any]:
        return {
            "times_ms": self.times_ms,
            "load_ms": self.load_ms,
            "first_run_ms": self.first_run_ms,
            "warm_up": self.warm_up,
            "providers": self._session.get_providers(),
        }


def run_round(job: dict[str, Any]) -> dict[str, Any]:
    """Time all arms of one round, interleaved in blocks.

    Every block begins with one run that is not recorded: it pays for the caches the arm before left.

    Args:
        job: ``paths`` of the arms, ``device``, ``threads``, ``spinning``, ``shape`` of the input, ``pool``
            (number of inputs), ``seed``, ``round``, ``runs_per_block``, ``seconds`` for all arms together,
            and ``warm_up`` as in :func:`warm_up`.

    Returns:
        ``arms`` in the order of ``paths``, and the ``order`` of the blocks.
    """
    generator = np.random.default_rng(job["seed"])
    images = [generator.standard_normal(job["shape"], dtype=np.float32) for _ in range(job["pool"])]
    arms = [_Arm(path, job, images) for path in job["paths"]]
    for arm in arms:
        arm.warm_up = warm_up(arm, **job["warm_up"])
    block_ms = sum(arm.warm_up["run_ms"] for arm in arms) * (job["runs_per_block"] + 1)
    cycles = max(1, round(job["seconds"] * 1e3 / block_ms))
    parent = os.getppid()
    order = []
    gc.disable()
    for cycle in block_order(len(arms), cycles, seed=job["seed"], round_number=job["round"]):
        order.append(cycle)
        for index in cycle:
            arms[index]()
            arms[index].times_ms += [arms[index]() for _ in range(job["runs_per_block"])]
        if os.getppid() != parent:
            raise SystemExit("The process that asked for the times is gone.")
    gc.enable()
    return {"arms": [arm.to_dict() for arm in arms], "order": order}


def main() -> None:
    """Answer the job on stdin; what a user can mend goes back as ``error`` instead of a traceback."""
    job = json.load(sys.stdin)
    try:
        answer = run_round(job)
    except LomtError as error:
        answer = {"error": str(error), "kind": type(error).__name__}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
