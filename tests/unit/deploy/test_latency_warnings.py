from pathlib import Path

import onnx
import pytest

from lomt.deploy import SpeedUp
from lomt.deploy.latency_report import ArmLatency
from lomt.deploy.latency_statistics import summarise
from lomt.deploy.latency_warnings import arm_warnings, machine_warnings, subnormal_warnings
from tests.unit.deploy.networks import write_conv_network

SETTINGS = {"device": "cpu", "threads": 1, "rounds": 5}
QUIET = SpeedUp(1.0, 0.99, 1.01)


def environment(load, cores=4):
    return {"load_average": load, "cpu": {"usable_cores": cores}}


def arm(times):
    return ArmLatency(str(Path("model.onnx")), 1, "", summarise(times), (1.0,), 1.0, 1.0, (tuple(times),))


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
    assert arm_warnings("dense", arm([1.0, 1.01] * 50), 0, SETTINGS) == []


def test_spread_few_runs_and_restlessness():
    assert arm_warnings("dense", arm([1.0, 1.5] * 20), 2, SETTINGS) == [
        "times of `dense` vary by 20% (CoV), more than 5.0%",
        "`dense` ran only 40 times, fewer than 100",
        "`dense` was not stable after warming up in 2 of 5 rounds",
    ]


def test_a_gpu_is_to_be_steadier():
    times = [1.0, 1.07] * 50
    assert arm_warnings("dense", arm(times), 0, SETTINGS) == []
    assert arm_warnings("dense", arm(times), 0, {**SETTINGS, "device": "cuda"}) == [
        "times of `dense` vary by 3% (CoV), more than 2.5%"
    ]


def test_subnormal_weights(tmp_path):
    networks = {
        "normal": onnx.load(write_conv_network(tmp_path / "normal.onnx", 2, layers=1)),
        "subnormal": onnx.load(write_conv_network(tmp_path / "subnormal.onnx", 2, layers=1, scale=1e-41)),
    }
    assert subnormal_warnings(networks) == [
        "`subnormal` holds 54 subnormal weights, which slow some CPUs: its times may mislead"
    ]
