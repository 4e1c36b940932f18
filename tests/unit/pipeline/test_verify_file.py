"""Files of a run: opened, exported with everything baked in, verified with task metrics, and caught when wrong."""

import dataclasses
import json

import onnx
import pytest
from onnx import numpy_helper
from typer.testing import CliRunner

from lomt.cli import app
from lomt.deploy import export_files
from lomt.deploy.onnx_graph import load_network
from lomt.errors import ArtifactError, ExportMismatchError, LomtError
from lomt.pipeline.model_source import open_source
from lomt.pipeline.verify_file import verify_file


@pytest.fixture(scope="module")
def source(tiny_run):
    return open_source(str(tiny_run[0]))


def test_a_run_stands_for_its_best_network(tiny_run, source):
    out = tiny_run[0]
    assert source.name == str(out / "rewired") and source.images.shape == (8, 3, 32, 48)
    assert source.interface.kinds == {"segmentation": "segmentation", "depth": "depth"}
    assert source.metrics == json.loads((out / "rewired" / "metrics.json").read_text())["metrics"]
    dense = open_source(str(out / "dense"), uses_data=False)
    assert dense.name == str(out / "dense") and dense.parts is None
    assert dense.interface.preprocessing == source.interface.preprocessing


def test_a_runs_file_is_verified_with_its_metrics(tiny_run, source):
    found = verify_file(tiny_run[0] / "deploy" / "model.onnx", source)
    assert found.passed and found.problems == ()
    assert found.metrics["depth"] == pytest.approx(source.metrics["depth"], rel=1e-3)
    json.dumps(found.to_dict(), allow_nan=False)


def test_another_networks_file_is_caught(tiny_run, source):
    found = verify_file(tiny_run[0] / "deploy" / "dense.onnx", source)
    assert not found.passed
    assert found.problems[0].startswith("Expected the weights' SHA-256 ")
    assert any("of task `depth` to be" in problem for problem in found.problems)


@pytest.fixture(scope="module")
def baked(source, tmp_path_factory):
    """A file that takes BGR images in 0 to 255 and gives labels."""
    path = tmp_path_factory.mktemp("deploy") / "baked.onnx"
    known = source.interface.preprocessing
    preprocessing = dataclasses.replace(known, channel_order="BGR", highest=255, is_baked=True)
    interface = dataclasses.replace(source.interface, preprocessing=preprocessing, answer="labels")
    (exported,) = export_files(
        source.model,
        source.file_images(interface)[:1],
        {path: None},
        interface=interface,
        samples=source.file_images(interface),
        further_check=source.check(interface),
    )
    assert exported.reason == "" and exported.further["depth"] == pytest.approx(
        source.metrics["depth"], rel=1e-3
    )
    return path


def test_metrics_of_a_file_with_everything_baked_in_are_the_same(baked, source):
    found = verify_file(baked, source)
    assert found.passed, found.problems
    for task, metrics in source.metrics.items():
        assert found.metrics[task] == pytest.approx(metrics, rel=1e-3)


def corrupt(path, folder, change):
    network = load_network(path)
    change(network)
    onnx.save(network, folder / "broken.onnx")
    return folder / "broken.onnx"


def test_a_wrong_mean_is_caught_in_the_graph_and_in_the_metadata(baked, source, tmp_path):
    def in_graph(network):
        tensor = next(own for own in network.graph.initializer if own.name == "preprocessing.shift")
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + 0.2, tensor.name))

    def in_metadata(network):
        entry = next(own for own in network.metadata_props if own.key == "lomt.preprocessing")
        content = json.loads(entry.value)
        entry.value = json.dumps({**content, "mean": [value + 0.1 for value in content["mean"]]})

    assert "largest difference" in verify_file(corrupt(baked, tmp_path, in_graph), source).problems[0]
    found = verify_file(corrupt(baked, tmp_path, in_metadata), source)
    assert len(found.problems) == 1
    assert found.problems[0].startswith("Expected the mean [")


def test_a_file_with_other_metrics_never_gets_its_name(source, tmp_path):
    wrong = {
        task: {name: value * 1.1 + 1 for name, value in own.items()} for task, own in source.metrics.items()
    }
    claimed = dataclasses.replace(source, metrics=wrong)
    images = claimed.file_images(source.interface)
    with pytest.raises(
        ExportMismatchError, match=r"Expected \w+ of task `segmentation` to be .* on model\.onnx as in"
    ):
        export_files(
            source.model,
            images[:1],
            {tmp_path / "model.onnx": None},
            fixed_size=True,
            interface=source.interface,
            samples=images,
            further_check=claimed.check(source.interface),
        )
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_exports_and_verifies_a_run(tiny_run, tmp_path):
    def call(*arguments):
        return CliRunner().invoke(app, list(map(str, arguments)))

    path = tmp_path / "depth.onnx"
    done = call("export", tiny_run[0], "--out", path, "--task", "depth", "--fixed-size", "--answer", "labels")
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "depth.verification.json").read_text())
    assert list(report["files"]["depth.onnx"]["metrics"]) == ["depth"]
    done = call("verify", path, "--against", tiny_run[0])
    assert done.exit_code == 0 and "depth: abs_error" in done.output
    done = call("verify", path, "--against", tiny_run[0] / "dense", "--no-metrics")
    assert done.exit_code == 1 and "the file was made from other weights." in done.output


def test_what_cannot_be_used_is_refused(tiny_run, source):
    run = tiny_run[0]
    with pytest.raises(LomtError, match="Expected no `--input`, `--weights` and `--option` for "):
        open_source(str(run), ["1x3x8x8"])
    with pytest.raises(
        ArtifactError, match=f"Expected `{run}/no.onnx` to be an ONNX file, but there is none"
    ):
        verify_file(run / "no.onnx", source)


def test_a_run_without_a_network_is_refused(tiny_run, tmp_path):
    (tmp_path / "recipe.yaml").write_text((tiny_run[0] / "recipe.yaml").read_text())
    with pytest.raises(
        ArtifactError, match=r"to hold a trained network, but it has none\. Run `lomt train` first\."
    ):
        open_source(str(tmp_path))
