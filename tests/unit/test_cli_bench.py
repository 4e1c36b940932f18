"""`lomt bench` on files and factories: what it parses, prints, writes and refuses."""

import json
from pathlib import Path

import numpy as np
import pytest

from lomt.cli import app
from lomt.cli_bench import _names
from lomt.deploy.latency_schema import read_latency
from tests.unit.deploy.networks import write_conv_network


@pytest.fixture
def call(capsys, tmp_path, monkeypatch):
    """Return a function that runs a command line and gives status, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            app([str(argument) for argument in arguments], prog_name="lomt")
        out, err = capsys.readouterr()
        return ended.value.code or 0, out, err

    return run


@pytest.fixture
def networks(tmp_path):
    return [
        write_conv_network(tmp_path / f"{name}.onnx", 4, layers=layers, size=(8, 12))
        for name, layers in (("dense", 3), ("small", 1))
    ]


def test_files_are_measured_shown_and_written(call, networks, tmp_path):
    options = ("--quick", "--rounds", 2, "--seconds", 0.01, "--profile", "--json", tmp_path / "bench.json")
    status, out, err = call("bench", *networks, *options)
    assert (status, err) == (0, "")
    assert out.startswith("Latency with provider cpu, 1 thread, batch 1, 3x8x12, 2 rounds\n")
    for text in (
        "speed-up over dense",
        "The baseline against itself",
        "Peak of this machine",
        "slowest layers",
    ):
        assert text in out
    found = read_latency(tmp_path / "bench.json")
    assert list(found.arms) == list(found.profile) == ["dense", "small"]
    assert found.baseline == "dense"
    assert len(found.arms["small"].times_ms) == 2


REFUSED = [
    (("a.onnx", "rooms_demo"), "Expected one recipe, or only ONNX files, factories"),
    (
        ("rooms_demo", "--threads", "2"),
        "Expected no --threads with recipe rooms_demo. Its block `bench` says that",
    ),
    (("a.onnx", "--set", "seed=1"), "Expected no --set with files. They belong to a recipe."),
    (("a.onnx", "--batch", "0"), "Expected `--batch` to be positive numbers such as 1 or 1,8, but got 0."),
    (("a.onnx", "--batch", "1,2", "--json", "x.json"), "Expected one `--batch` with `--json`"),
    (("a.onnx", "--input-size", "8"), "Expected `--input-size` to be height x width in pixels"),
    (("a.onnx", "--threads", "0"), "Expected `--threads` to be at least 1, but got 0."),
    (("a.onnx", "--provider", "openvion"), "Unknown provider `openvion`, did you mean `openvino`"),
    (
        ("a.onnx", "--provider", "tensorrt"),
        "Expected provider `tensorrt` to be installed, but available here are cpu",
    ),
    (("a.onnx", "--device", "cuda"), "Expected `device` to be cpu with provider cpu, but got cuda"),
    (("a.onnx", "--provider", "torch"), "as PyTorch does not read ONNX files, but got a.onnx"),
    (
        ("a.onnx", "--provider", "torch", "--profile"),
        "Expected the provider of a profile to be cpu or openvino",
    ),
    (("a.onnx",), "Expected `a.onnx` to be an ONNX file, but there is none. Export it first."),
    (("timm:resnet18",), "Expected `--input-size HxW` for timm:resnet18, which does not say what it takes."),
]


@pytest.mark.parametrize(("arguments", "text"), REFUSED, ids=[text for _, text in REFUSED])
def test_what_cannot_be_used_is_told_in_a_line(arguments, text, call, monkeypatch):
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    status, out, err = call("bench", *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert text in err
    assert not Path("x.json").exists()


def test_names_are_short_where_they_differ():
    assert _names(["a/dense.onnx", "b/small.onnx"]) == ["dense", "small"]
    assert _names(["a/model.onnx", "b/model.onnx"]) == ["a/model.onnx", "b/model.onnx"]
    assert _names(["model.onnx", "model.onnx"]) == ["model.onnx", "model.onnx (2)"]
    assert _names(["timm:resnet18"]) == ["timm:resnet18"]


# --- lomt quantize on files


@pytest.fixture
def images(tmp_path):
    path = tmp_path / "images.npz"
    np.savez(path, images=np.random.default_rng(0).standard_normal((6, 3, 8, 12)).astype(np.float32))
    return path


def test_a_file_is_quantised(call, networks, images, tmp_path):
    out_file, record = tmp_path / "int8.onnx", tmp_path / "int8.json"
    options = ("--data", images, "--share", 0.9, "--out", out_file, "--json", record)
    status, out, err = call("quantize", networks[0], *options)
    assert (status, err) == (0, "")
    assert "3 of 3 layers in int8" in out
    assert f"Written to {out_file}." in out
    found = json.loads(record.read_text())
    assert found["kept"]["depth"] >= 0.9
    assert found["int8_bytes"] == out_file.stat().st_size


def test_a_file_is_halved(call, networks, tmp_path):
    status, out, _ = call("quantize", networks[0], "--fp16", "--out", tmp_path / "half.onnx")
    assert status == 0
    assert "float16" in out
    assert (tmp_path / "half.onnx").is_file()


REFUSED_TO_QUANTIZE = [
    (("dense.onnx",), "Expected `--out FILE` to say where the network goes."),
    (("dense.onnx", "--out", "x.onnx"), "Expected `--data` to name a folder of images or an npz file"),
    (
        ("dense.onnx", "--out", "x.onnx", "--set", "a=1"),
        "Expected no --set with dense.onnx. It belongs to a recipe.",
    ),
    (
        ("dense.onnx", "--out", "x.onnx", "--data", "images.npz", "--method", "minmix"),
        "Unknown calibration method `minmix`, did you mean `minmax`?",
    ),
    (
        ("dense.onnx", "--out", "x.onnx", "--data", "images.npz", "--share", "2"),
        "Expected `--share` to be above 0 and at most 1, but got 2.0.",
    ),
    (
        ("dense.onnx", "--out", "x.onnx", "--data", "images.npz", "--images", "0"),
        "Expected `--images` to be at least 1, but got 0.",
    ),
    (
        ("dense.onnx", "--out", "x.onnx", "--fp16", "--share", "0.9"),
        "Expected no --share with --fp16. They are for int8.",
    ),
    (("rooms_demo", "--fp16"), "Expected no --fp16 with rooms_demo. They belong to an ONNX file"),
    (("no_recipe",), "Unknown recipe `no_recipe`"),
]


@pytest.mark.parametrize(
    ("arguments", "text"), REFUSED_TO_QUANTIZE, ids=[text for _, text in REFUSED_TO_QUANTIZE]
)
def test_what_cannot_be_quantised_is_told_in_a_line(arguments, text, call, networks, images):
    status, _, err = call("quantize", *arguments)
    assert status == 2
    assert err.startswith("error: ")
    assert text in err
    assert not Path("x.onnx").exists()
