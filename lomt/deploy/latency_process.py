"""A fresh process for each job of timing, which never outlives the call that started it."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import lomt
from lomt.deploy.session import ProviderError
from lomt.errors import LomtError

__all__ = ["LatencyError", "ask_worker"]

_WORKER: Final = "lomt.deploy.latency_worker"


class LatencyError(LomtError, RuntimeError):
    """A latency measurement that could not be made."""


def ask_worker(job: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Have a job done in a fresh process.

    Args:
        job: What :mod:`lomt.deploy.latency_worker` takes.
        what: The job for a message, such as "round 1 of the timing".

    Raises:
        ProviderError: The software cannot run a network on that device.
        LatencyError: A network cannot be run, or the process ends badly.
    """
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
    return _read_answer(out, err, worker.returncode, what)


def _read_answer(out: str, err: str, status: int, what: str) -> dict[str, Any]:
    if status != 0:
        last = (err.strip().splitlines() or ["nothing on its error stream"])[-1]
        raise LatencyError(f"Expected {what} to end well, but its process ended with status {status}: {last}")
    # A model's own code may print before the answer, which is the last line.
    answer: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
    if "error" in answer:
        raise (ProviderError if answer["error_kind"] == "ProviderError" else LatencyError)(answer["error"])
    return answer
