"""Two processes on gloo against one process at the same total batch."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

JOB = Path(__file__).with_name("distributed_job.py")
BAYESAGG_JOB = Path(__file__).with_name("bayesagg_distributed_job.py")
SPARSE_JOB = Path(__file__).with_name("sparse_distributed_job.py")
ROOT = Path(__file__).parents[3]


def run(world_size: int, out: Path, job: Path = JOB, *options: str) -> dict:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(world_size):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "MASTER_PORT": port}
        environment = {**os.environ, **{k: str(v) for k, v in place.items()}, "MASTER_ADDR": "127.0.0.1"}
        if world_size == 1:
            environment = dict(os.environ)
        environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"}
        processes.append(
            subprocess.Popen(
                [sys.executable, str(job), str(out), *options],
                env=environment,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    for process in processes:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors[-2000:]
    return json.loads(out.read_text())


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    one, two = run(1, tmp_path / "one.json"), run(2, tmp_path / "two.json")

    assert one["pattern"] == two["pattern"]
    assert any(any(layer) for layer in one["pattern"].values())
    assert not all(all(layer) for layer in one["pattern"].values())
    for first, second in zip(one["losses"], two["losses"], strict=True):
        assert second == pytest.approx(first, rel=1e-5, abs=1e-5)
    assert two["metrics"]["depth"] == pytest.approx(one["metrics"]["depth"], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("pcgrad",)], ids=["sum", "pcgrad"])
def test_two_processes_reach_the_target_as_one(tmp_path, options):
    one, two = (run(count, tmp_path / f"{count}.json", SPARSE_JOB, *options) for count in (1, 2))

    assert one["pattern"] == two["pattern"]
    assert one["reached"] == pytest.approx(0.45, abs=0.01) and two["reached"] == one["reached"]
    for name in ("losses", "thresholds"):
        for first, second in zip(one[name], two[name], strict=True):
            assert second == pytest.approx(first, rel=1e-3, abs=1e-5)


@pytest.mark.slow
def test_aggregated_gradients_are_those_of_one_process(tmp_path):
    one, two = (run(n, tmp_path / f"{n}.json", BAYESAGG_JOB) for n in (1, 2))
    assert len(one) == len(two) == 3
    for name, total in one.items():
        assert two[name] == pytest.approx(total, rel=1e-5), name
