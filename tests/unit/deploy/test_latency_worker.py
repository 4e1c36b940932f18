import json
import subprocess
import sys
from collections import Counter

import pytest

from lomt.deploy import latency_worker
from lomt.deploy.latency_worker import block_order, probe, profile, run_round, warm_up
from lomt.deploy.matrix_product import write_product
from tests.unit.deploy.networks import write_conv_network

WARM_UP = {"least_runs": 10, "least_ms": 0.0, "cap_ms": 5.0, "agreement": 0.02}


@pytest.fixture
def job(tmp_path):
    small = write_conv_network(tmp_path / "small.onnx", 2, size=(8, 8))
    large = write_conv_network(tmp_path / "large.onnx", 4, size=(8, 8))
    return {
        "kind": "round",
        "paths": [str(small), str(large), str(small)],
        "settings": {
            "provider": "cpu",
            "device": "cpu",
            "threads": 1,
            "spinning": True,
            "shape": [2, 3, 8, 8],
            "pool": 3,
            "seed": 5,
        },
        "gemm": None,
        "least_runs": 1,
        "seed": 5,
        "round": 1,
        "runs_per_block": 4,
        "seconds": 0.02,
        "warm_up": WARM_UP,
    }


def test_every_cycle_has_every_arm_once():
    cycles = list(block_order(4, 50, seed=0, round_number=0))
    assert all(sorted(cycle) == [0, 1, 2, 3] for cycle in cycles)


def test_every_arm_comes_first_about_as_often():
    first = Counter(cycle[0] for cycle in block_order(3, 3000, seed=0, round_number=0))
    assert all(900 < count < 1100 for count in first.values())


def test_the_order_depends_on_seed_and_round_and_not_on_the_number_of_cycles():
    def order(**changes):
        return list(block_order(3, **{"cycles": 20, "seed": 0, "round_number": 0, **changes}))

    assert order() == order()
    assert order(cycles=40)[:20] == order()
    assert order(seed=1) != order()
    assert order(round_number=1) != order()


def clock(times):
    remaining = iter(times)
    return lambda: next(remaining)


@pytest.mark.parametrize(
    ("times", "runs", "is_stable"),
    [
        ([9.0] * 5 + [1.0] * 10, 15, True),
        ([1.0] * 10, 10, True),
        ([2.0**-count for count in range(100)], 10, False),
    ],
    ids=["falls then rests", "rests at once", "cap is reached"],
)
def test_warming_ends_when_two_windows_agree_or_at_the_cap(times, runs, is_stable):
    found = warm_up(
        clock(times), least_runs=10, least_ms=0.0, cap_ms=1.5 if not is_stable else 1e9, agreement=0.02
    )
    assert (found["runs"], found["is_stable"]) == (runs, is_stable)
    assert found["run_ms"] == sorted(times[runs - 5 : runs])[2]


def test_warming_lasts_as_long_as_it_must():
    found = warm_up(clock([1.0] * 100), least_runs=10, least_ms=40.0, cap_ms=1e9, agreement=0.02)
    assert found["runs"] == 40
    found = warm_up(clock([1.0] * 100), least_runs=32, least_ms=0.0, cap_ms=0.0, agreement=0.02)
    assert found["runs"] == 35


def test_a_round_times_all_arms_equally_often_in_the_drawn_order(job):
    answer = run_round(job)
    cycles = len(answer["order"])
    assert answer["order"] == list(block_order(3, cycles, seed=5, round_number=1))
    assert [len(arm["times_ms"]) for arm in answer["arms"]] == [4 * cycles] * 3
    for arm in answer["arms"]:
        assert min(arm["times_ms"]) > 0
        assert arm["load_ms"] > 0
        assert arm["first_run_ms"] > 0
        assert arm["providers"] == ["CPUExecutionProvider"]


def test_a_round_has_one_cycle_at_least(job):
    assert len(run_round({**job, "seconds": 1e-9})["order"]) == 1


def test_a_round_has_as_many_runs_as_asked_for_at_least(job):
    answer = run_round({**job, "seconds": 1e-9, "least_runs": 9})
    assert [len(arm["times_ms"]) for arm in answer["arms"]] == [12] * 3  # in blocks of 4


def test_a_round_tells_what_the_machine_could_do_and_did(job, tmp_path):
    size = 96
    gemm = {"source": str(write_product(size, tmp_path / "product.onnx")), "size": size}
    answer = run_round({**job, "gemm": gemm})
    assert 1e6 < answer["gemm_macs_per_s"] < 1e14
    assert answer["other_load"] >= 0
    assert len(answer["clock_mhz"]) == 2


def test_another_process_is_seen_at_work(monkeypatch):
    busy = iter([100.0, 105.0])
    wall = iter([0.0, 4.0])
    own = iter([1.0, 4.0])
    monkeypatch.setattr(latency_worker, "_busy_s", lambda: next(busy))
    monkeypatch.setattr(latency_worker.time, "monotonic", lambda: next(wall))
    monkeypatch.setattr(latency_worker.time, "process_time", lambda: next(own))
    assert latency_worker._Machine().since_then()["other_load"] == (5 - 3) / 4


def test_a_probe_tells_outputs_and_memory(job):
    answer = probe({"path": job["paths"][1], "settings": job["settings"]})
    assert answer["outputs"] == {"depth": {"shape": [2, 4, 8, 8], "dtype": "float32", "is_finite": True}}
    assert answer["device_memory_bytes"] is None
    assert answer["peak_memory_bytes"] >= 0


def test_a_probe_finds_numbers_that_are_not_finite(job, tmp_path):
    path = write_conv_network(tmp_path / "nan.onnx", 2, size=(8, 8), scale=float("inf"))
    assert probe({"path": str(path), "settings": job["settings"]})["outputs"]["depth"]["is_finite"] is False


def test_a_profile_has_every_layer(job):
    answer = profile({"path": job["paths"][1], "settings": job["settings"], "runs": 6})
    kinds = [layer["kind"] for layer in answer["layers"]]
    assert kinds.count("Conv") == 3
    assert all(layer["ms"] >= 0 for layer in answer["layers"])


def test_it_stops_when_nobody_waits_for_the_times(job, monkeypatch):
    parents = iter([100, 1])
    monkeypatch.setattr(latency_worker.os, "getppid", lambda: next(parents))
    with pytest.raises(SystemExit, match=r"The process that asked for the times is gone\."):
        run_round(job)


def ask(job):
    return subprocess.run(
        [sys.executable, "-m", "lomt.deploy.latency_worker"],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        check=True,
    )


def test_as_a_process_it_answers_in_json_and_says_nothing_else(job):
    answer = ask(job)
    assert len(json.loads(answer.stdout)["arms"]) == 3
    assert answer.stderr == ""


def test_as_a_process_it_answers_with_what_a_user_can_mend(job, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", (tmp_path / "job.json").open("w+"))
    json.dump({**job, "paths": [str(tmp_path / "missing.onnx")]}, sys.stdin)
    sys.stdin.seek(0)
    latency_worker.main()
    missing = tmp_path / "missing.onnx"
    assert json.loads(capsys.readouterr().out) == {
        "error": f"Expected `{missing}` to be an ONNX file, but there is none. Export it first.",
        "error_kind": "ArtifactError",
    }
    sys.stdin.close()
