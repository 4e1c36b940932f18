import json
import subprocess

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from lomt.deploy import LatencyError, ProviderError, latency, measure_latency
from lomt.errors import ArtifactError, UnknownNameError
from tests.reference.plain_timing import time_plainly
from tests.unit.deploy.networks import write_conv_network, write_network


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("latency")
    return {
        "large": write_conv_network(folder / "large.onnx", 24, size=(32, 48)),
        "small": write_conv_network(folder / "small.onnx", 8, size=(32, 48)),
    }


@pytest.fixture(scope="module")
def report(networks):
    return measure_latency(
        networks, baseline="large", rounds=3, seconds=0.3, runs_per_block=5, seed=1, quick=True
    )


def test_seven_times_the_work_is_a_speed_up_and_the_same_file_is_none(report, networks):
    found = report.speed_ups["small"]
    assert found.low > 1
    plain = {name: time_plainly(path, (1, 3, 32, 48)) for name, path in networks.items()}
    assert 0.5 < found.ratio / (plain["large"] / plain["small"]) < 2
    assert 0.8 < report.noise_floor.ratio < 1.25
    assert str(found) in str(report)


def test_all_that_is_needed_to_read_the_numbers_is_there(report, networks):
    assert list(report.arms) == ["large", "small"]
    assert list(report.speed_ups) == ["small"]
    for name, arm in report.arms.items():
        assert arm.file_bytes == networks[name].stat().st_size
        assert len(arm.sha256) == 64
        assert len(arm.times_ms) == len(arm.round_medians_ms) == 3
        assert arm.round_medians_ms[0] == np.median(arm.times_ms[0])
        assert arm.statistics.count == sum(map(len, arm.times_ms))
        assert min(arm.round_medians_ms) <= arm.median_ms <= max(arm.round_medians_ms)
    assert report.settings["input_shape"] == [3, 32, 48]
    assert report.settings["provider"] == "CPUExecutionProvider"
    assert (report.settings["threads"], report.settings["inter_op_threads"]) == (1, 1)
    assert report.environment["packages"]["onnxruntime"] == onnxruntime.__version__
    json.dumps(report.to_dict(include_times=True), allow_nan=False)


@pytest.fixture
def started(monkeypatch):
    """The processes that were started."""
    processes = []

    class Recorded(subprocess.Popen):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            processes.append(self)

    monkeypatch.setattr(subprocess, "Popen", Recorded)
    return processes


def test_an_interrupt_ends_the_process_that_times(networks, started, monkeypatch):
    def interrupt(*_, **__):
        assert started[0].poll() is None
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess.Popen, "communicate", interrupt)
    with pytest.raises(KeyboardInterrupt):
        measure_latency(networks, baseline="large", quick=True)
    assert len(started) == 1
    assert started[0].poll() is not None


def test_one_network_alone_gives_the_noise_and_every_round_is_a_process_of_its_own(networks, started):
    found = measure_latency(
        {"small": networks["small"]}, baseline="small", threads=2, batch=2, rounds=2, seconds=0.02, quick=True
    )
    assert len({process.pid for process in started}) == 2
    assert found.speed_ups == {}
    assert found.settings["batch"] == 2
    assert found.noise_floor.ratio > 0


def test_a_process_that_fails_is_told_with_its_last_words(networks, monkeypatch):
    monkeypatch.setattr(latency, "_WORKER", "lomt.deploy.no_worker")
    with pytest.raises(LatencyError) as caught:
        measure_latency(networks, baseline="large", quick=True)
    assert str(caught.value).startswith(
        "Expected round 1 of the timing to end well, but its process ended with status 1: "
    )
    assert str(caught.value).endswith("No module named lomt.deploy.no_worker")


def test_a_process_that_dies_in_silence_is_told(networks):
    with pytest.raises(LatencyError, match="ended with status -9: nothing on its error stream"):
        latency._read_answer("", "", -9, 1)


def test_a_network_that_onnxruntime_cannot_load_is_named(tmp_path):
    node = helper.make_node("Fancy", ["images"], ["depth"], domain="somewhere")
    path = write_network(tmp_path / "fancy.onnx", [node], [], domains=["somewhere"])
    with pytest.raises(
        LatencyError, match=f"Expected onnxruntime to load `{path.resolve()}`, but got: .*Fancy"
    ):
        measure_latency({"fancy": path}, baseline="fancy", quick=True)


def test_a_device_that_is_not_offered_is_refused_before_anything_starts(networks, started, monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(
        ProviderError, match="Install onnxruntime-gpu in place of onnxruntime, or use device `cpu`"
    ):
        measure_latency(networks, baseline="large", device="cuda")
    assert started == []


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"threads": 0}, "Expected `threads` to be at least 1, but got 0."),
        ({"batch": 0}, "Expected `batch` to be at least 1, but got 0."),
        ({"rounds": 1}, "Expected `rounds` to be at least 2, but got 1."),
        ({"runs_per_block": 0}, "Expected `runs_per_block` to be at least 1, but got 0."),
        ({"seconds": 0.0}, "Expected `seconds` to be positive, but got 0.0."),
        (
            {"input_shape": (3, 32, 64)},
            "Expected all arms to take images of shape (3, 32, 64), but got (3, 32, 48) for `large`. Export "
            "it for that size, or give another `input_shape`.",
        ),
    ],
)
def test_numbers_that_cannot_be_used_are_refused(options, text, networks):
    with pytest.raises(ValueError) as caught:
        measure_latency(networks, baseline="large", **options)
    assert str(caught.value) == text


def test_arms_that_cannot_be_used_are_refused(networks, tmp_path):
    with pytest.raises(UnknownNameError, match="Unknown arm `big`"):
        measure_latency(networks, baseline="big")
    with pytest.raises(
        ArtifactError, match=f"Expected `{tmp_path / 'no.onnx'}` to be an ONNX file, but there is none"
    ):
        measure_latency({**networks, "no": tmp_path / "no.onnx"}, baseline="large")


def test_an_open_size_must_be_given(networks, tmp_path):
    network = onnx.load(networks["small"])
    for value in (*network.graph.input, *network.graph.output):
        value.type.tensor_type.shape.dim[2].dim_param = "height"
    onnx.save(network, tmp_path / "open.onnx")
    arms = {"open": tmp_path / "open.onnx"}
    with pytest.raises(ValueError) as caught:
        measure_latency(arms, baseline="open")
    assert str(caught.value) == (
        "Expected `input_shape`, as `open` leaves its size open (0 in (3, 0, 48)), but got None."
    )
    found = measure_latency(
        arms, baseline="open", input_shape=(3, 16, 48), rounds=2, seconds=0.01, quick=True
    )
    assert found.settings["input_shape"] == [3, 16, 48]
