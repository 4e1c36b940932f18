import json
import re
import subprocess

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from lomt.deploy import LatencyError, ProviderError, latency_process, measure_latency
from lomt.deploy import latency as latency_module
from lomt.deploy.latency_process import ask_worker
from lomt.deploy.latency_schema import LatencyFile
from lomt.errors import ArtifactError, UnknownNameError
from tests.reference.plain_timing import time_plainly
from tests.unit.deploy.networks import write_conv_network, write_network


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("latency")
    return {
        "large": write_conv_network(folder / "large.onnx", 16, size=(32, 48), layers=8),
        "small": write_conv_network(folder / "small.onnx", 16, size=(32, 48), layers=2),
    }


@pytest.fixture(scope="module")
def report(networks):
    return measure_latency(
        networks, baseline="large", rounds=3, seconds=0.3, runs_per_block=5, seed=1, quick=True
    )


def test_six_times_the_work_is_a_speed_up_and_the_same_file_is_none(report, networks):
    found = report.speed_ups["small"]
    assert found.low > 1
    plain = {name: time_plainly(path, (1, 3, 32, 48)) for name, path in networks.items()}
    assert 0.5 < found.ratio / (plain["large"] / plain["small"]) < 2
    assert report.noise_floor.low < 1.25 and report.noise_floor.high > 0.8
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
    assert (report.settings["provider"], report.settings["execution_provider"]) == (
        "cpu",
        "CPUExecutionProvider",
    )
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


def test_every_check_and_every_round_is_a_process_of_its_own(networks, started, tmp_path):
    other = write_conv_network(tmp_path / "other.onnx", 8, size=(32, 48), output="edges", layers=1)
    found = measure_latency(
        {"small": networks["small"], "other": other},
        baseline="small",
        threads=2,
        batch=2,
        rounds=2,
        seconds=0.02,
        quick=True,
        any_outputs=True,
    )
    assert len({process.pid for process in started}) == 2 + 2  # the checks, the rounds
    assert found.arms["other"].outputs == {"edges": (2, 8, 32, 48)}
    assert found.settings["batch"] == 2
    assert found.noise_floor.ratio > 0


def test_a_process_that_fails_is_told_with_its_last_words(networks, monkeypatch):
    monkeypatch.setattr(latency_process, "_WORKER", "lomt.deploy.no_worker")
    with pytest.raises(LatencyError) as caught:
        measure_latency(networks, baseline="large", quick=True)
    assert str(caught.value).startswith("Expected `large` to end well, but its process ended with status 1: ")
    assert str(caught.value).endswith("No module named lomt.deploy.no_worker")


def test_a_network_that_onnxruntime_cannot_load_is_named(tmp_path):
    node = helper.make_node("Fancy", ["images"], ["depth"], domain="somewhere")
    path = write_network(tmp_path / "fancy.onnx", [node], [], domains=["somewhere"])
    with pytest.raises(
        LatencyError, match=f"Expected onnxruntime to load `{path.resolve()}`, but got: .*Fancy"
    ):
        measure_latency({"fancy": path}, baseline="fancy", quick=True)


def test_a_device_that_is_not_offered_is_refused_before_anything_starts(networks, started, monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ProviderError) as caught:
        measure_latency(networks, baseline="large", provider="cuda")
    assert re.fullmatch(
        r"Expected provider `cuda` to be installed, but available here are cpu, .*torch-compile\. Install "
        r"onnxruntime-gpu in place of onnxruntime, with CUDA and cuDNN that fit it\.",
        str(caught.value),
    )
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
        "Expected `input_shape`, as `open` takes images of any size (3x?x48), but got None."
    )


def test_efficiency_is_the_rate_at_the_median_over_that_of_a_matrix_product(report):
    for name, layers in (("large", 8), ("small", 2)):
        arm = report.arms[name]
        assert arm.macs == 32 * 48 * 9 * (3 * 16 + (layers - 1) * 16 * 16)
        assert arm.efficiency == pytest.approx(arm.macs / (arm.median_ms / 1e3) / report.gemm_macs_per_s)
    rates = [own["gemm_macs_per_s"] for own in report.environment["rounds"]]
    assert report.gemm_macs_per_s == max(rates)
    # onnxruntime multiplies matrices at some gigaflops even on an old machine under load
    assert 1e8 < report.gemm_macs_per_s < 1e14


def test_memory_is_that_of_one_network_alone_and_grows_with_it(tmp_path):
    arms = {
        "wide": write_conv_network(tmp_path / "wide.onnx", 8, size=(640, 800), output="depth"),
        "tiny": write_conv_network(tmp_path / "tiny.onnx", 8, size=(8, 8), output="depth"),
    }
    found = {}
    for name, size in (("wide", [640, 800]), ("tiny", [8, 8])):
        settings = {"provider": "cpu", "device": "cpu", "threads": 1, "spinning": True, "seed": 0, "pool": 1}
        job = {"kind": "probe", "path": str(arms[name]), "settings": {**settings, "shape": [1, 3, *size]}}
        found[name] = ask_worker(job, name)["peak_memory_bytes"]
    assert found["wide"] - found["tiny"] > 640 * 800 * 8 * 4  # one map of features at the least


def test_what_fails_the_check_is_never_timed(networks, started, tmp_path):
    broken = write_conv_network(tmp_path / "nan.onnx", 4, size=(32, 48), scale=float("inf"))
    with pytest.raises(LatencyError, match="Expected output `depth` of `nan` to be finite on random images"):
        measure_latency({"nan": broken}, baseline="nan", quick=True)
    assert len(started) == 1
    other = write_conv_network(tmp_path / "other.onnx", 8, size=(32, 48), output="edges", layers=1)
    arms = {"small": networks["small"], "other": other}
    with pytest.raises(LatencyError, match="Expected the outputs of `other` to be among those of `small`"):
        measure_latency(arms, baseline="small", quick=True)


def test_at_least_a_hundred_runs_unless_seconds_are_given(networks, monkeypatch):
    asked = []

    def answer(job, what):
        asked.append(job)
        raise LatencyError("enough")

    def gate(job, what):
        return answer(job, what) if job["kind"] == "round" else PROBE

    monkeypatch.setattr(latency_module, "ask_worker", gate)
    for options in ({}, {"quick": True}, {"seconds": 2.0}):
        with pytest.raises(LatencyError, match="enough"):
            measure_latency({"small": networks["small"]}, baseline="small", **options)
    full, quick, given = asked
    assert (full["least_runs"], full["seconds"]) == (100 / 10, 10.0 * 2 / 10)
    assert (quick["least_runs"], quick["seconds"]) == (1, 1.0 * 2 / 5)
    assert (given["least_runs"], given["seconds"]) == (1, 2.0 * 2 / 10)


PROBE = {
    "outputs": {"depth": {"shape": [1, 8, 32, 48], "dtype": "float32", "is_finite": True}},
    "peak_memory_bytes": 1,
    "device_memory_bytes": None,
    "build_ms": None,
}


def test_torch_needs_to_be_told_the_size():
    with pytest.raises(ValueError, match="Expected `input_shape` to say channels, height and width"):
        measure_latency({"a": "timm:resnet18"}, baseline="a", provider="torch")


@pytest.mark.slow
@pytest.mark.parametrize("provider", ["torch", "torch-compile"])
def test_pytorch_modules_are_timed_in_pytorch(provider):
    found = measure_latency(
        {"net": "timm:test_resnet"},
        baseline="net",
        provider=provider,
        input_shape=(3, 32, 32),
        rounds=2,
        seconds=0.02,
        quick=True,
    )
    arm = found.arms["net"]
    assert arm.outputs == {"output": (1, 1000)}
    assert (arm.file_bytes, arm.sha256, arm.macs) == (None, None, None)
    assert arm.providers[0].startswith("torch cpu")
    LatencyFile.model_validate(found.to_dict(include_times=True))


@pytest.mark.skipif(
    "CUDAExecutionProvider" not in onnxruntime.get_available_providers(),
    reason="onnxruntime has no CUDA here",
)
def test_a_gpu_is_timed_on_its_own_clock_too(networks):
    found = measure_latency(
        networks, baseline="large", provider="cuda", rounds=2, seconds=0.1, runs_per_block=5, quick=True
    )
    arm = found.arms["large"]
    assert 0 < arm.device_ms <= arm.median_ms
    assert arm.providers[0] == "CUDAExecutionProvider"
