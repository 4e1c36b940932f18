from pathlib import Path

import pytest

from lomt.pipeline.bench_stage import arm_titles, bench_arms
from lomt.recipe import load_recipe

RECIPE = str(Path(__file__).with_name("tiny.yaml"))


def recipe(*overrides):
    return load_recipe(RECIPE, overrides, check_names=False)


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "deploy").mkdir()
    for name in ("dense", "model"):
        (tmp_path / "deploy" / f"{name}.onnx").write_bytes(b"")
    return tmp_path


def test_the_networks_are_the_arms(directory):
    arms = bench_arms(recipe(), directory)
    assert {name: path.name for name, path in arms.items()} == {
        "dense": "dense.onnx",
        "rewired": "model.onnx",
    }


def test_files_of_single_tasks_and_int8_are_arms_where_they_are(directory):
    (directory / "deploy" / "depth.onnx").write_bytes(b"")
    (directory / "deploy" / "task_segmentation.onnx").write_bytes(b"")
    arms = bench_arms(recipe("quantize={}"), directory)
    assert {name: path.relative_to(directory).as_posix() for name, path in list(arms.items())[2:]} == {
        "task segmentation": "deploy/task_segmentation.onnx",
        "task depth": "deploy/depth.onnx",
        "int8": "quantized/int8.onnx",
    }


def test_the_pruned_arm_is_named_for_what_was_pruned():
    assert arm_titles(recipe("prune.macs=0.5"))["pruned"] == "pruned LOMT"
    assert arm_titles(recipe("prune.macs=0.5", "prune.target=dense"))["pruned"] == "pruned only"
    assert arm_titles(recipe())["rewired"] == "truncated only"
