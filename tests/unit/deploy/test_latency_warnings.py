from pathlib import Path

import onnx
import pytest

from lomt.deploy import SpeedUp
from lomt.deploy.latency_report import ArmLatency
from lomt.deploy.latency_statistics import summarise
from lomt.deploy.latency_warnings import (
    arm_warnings,
    machine_warnings,
    round_warnings,
    subnormal_warnings,
)
from tests.unit.deploy.networks import write_conv_network

SETTINGS = {"provider": "cpu", "device": "cpu", "threads": 1, "rounds": 5}
QUIET = SpeedUp(1.0, 0.99, 1.01)


def environment(load, cores=4):
    return {"load_average": load, "cpu": {"usable_cores": cores}}


def arm(times, device_ms=None):
    return ArmLatency(
        path=str(Path("model.onnx")),
        file_bytes=1,
        sha256="",
        statistics=summarise(times),
        round_medians_ms=(1.0,),
        load_ms=1.0,
        build_ms=None,
        first_run_ms=1.0,
        throughput=1.0,
        outputs={},
        peak_memory_bytes=1,
        device_memory_bytes=None,
        macs=None,
        efficiency=None,
        device_ms=device_ms,
        providers=(),
        times_ms=(tuple(times),),
    )


@pytest.mark.parametrize(("load", "is_busy"), [(None, False), (2.0, False), (2.1, True)])
def test_a_busy_machine(load, is_busy):
    found = machine_warnings(environment(load), SETTINGS, QUIET)
    text = "the machine was busy: load average 2.1 on 4 cores before the first round"
    assert found == ([text] if is_busy else [])


def test_a_baseline_that_differs_from_itself():
    assert machine_warnings(environment(0.0), SETTINGS, SpeedUp(1.1, 1.05, 1.15)) == [
        "the baseline differs from itself, 1.10x [1.050, 1.150]: no ratio this close to 1 is shown"
    ]


def test_few_rounds():
    assert machine_warnings(environment(0.0), {**SETTINGS, "rounds": 3}, QUIET) == [
        "intervals from 3 rounds, fewer than 5, are too narrow"
    ]


def test_more_threads_than_cores():
    assert machine_warnings(environment(0.0), {**SETTINGS, "threads": 8}, QUIET) == [
        "8 threads share 4 cores"
    ]


def test_a_steady_arm_is_not_warned_of():
    assert arm_warnings({"dense": arm([1.0, 1.01] * 50)}, [0], SETTINGS) == []


def test_spread_few_runs_and_restlessness():
    arms = {"dense": arm([1.0, 1.5] * 20), "small": arm([1.0, 1.3] * 60), "steady": arm([1.0] * 100)}
    assert arm_warnings(arms, [2, 0, 0], SETTINGS) == [
        "times vary (CoV) by more than 5.0%: `dense` 20%, `small` 13%",
        "fewer than 100 runs: `dense` 40",
        "not stable after warming up: `dense` 2 of 5 rounds",
    ]


def test_a_gpu_is_to_be_steadier():
    times = [1.0, 1.07] * 50
    assert arm_warnings({"dense": arm(times)}, [0], SETTINGS) == []
    assert arm_warnings({"dense": arm(times)}, [0], {**SETTINGS, "provider": "cuda"}) == [
        "times vary (CoV) by more than 2.5%: `dense` 3%"
    ]


def test_subnormal_weights(tmp_path):
    networks = {
        "normal": onnx.load(write_conv_network(tmp_path / "normal.onnx", 2, layers=1)),
        "subnormal": onnx.load(write_conv_network(tmp_path / "subnormal.onnx", 2, layers=1, scale=1e-41)),
    }
    assert subnormal_warnings(networks) == [
        "`subnormal` holds 54 subnormal weights, which slow some CPUs: its times may mislead"
    ]


def test_a_gpu_that_waits_for_its_host():
    times = [1.0, 1.01] * 50
    settings = {**SETTINGS, "provider": "cuda"}
    assert arm_warnings({"dense": arm(times, device_ms=0.9)}, [0], settings) == []
    assert arm_warnings({"dense": arm(times, device_ms=0.5)}, [0], settings) == [
        "`dense` is bound by its launches: the GPU works 0.500 of 1.000 ms"
    ]


def quiet_round(**changes):
    return {"other_load": 0.1, "clock_mhz": [2000.0, 2010.0], **changes}


def test_a_quiet_machine_is_not_warned_of():
    assert round_warnings([quiet_round(), quiet_round(clock_mhz=[None, None])]) == []


def test_other_processes_and_a_moving_clock():
    assert round_warnings(
        [quiet_round(), quiet_round(other_load=1.25), quiet_round(clock_mhz=[2000.0, 2400.0])]
    ) == [
        "other processes kept up to 1.2 cores busy in 1 of 3 rounds: times are too long and vary",
        "the processor's clock moved between 2000 and 2400 MHz: fix it, or trust the ratios only",
    ]
