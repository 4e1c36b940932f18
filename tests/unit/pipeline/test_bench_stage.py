from pathlib import Path

from lomt.pipeline.bench_stage import arm_titles, bench_arms
from lomt.recipe import load_recipe

RECIPE = str(Path(__file__).with_name("tiny.yaml"))


def recipe(*overrides):
    return load_recipe(RECIPE, overrides, check_names=False)


def shown(arms, directory):
    return {name: path.relative_to(directory).as_posix() for name, path in arms.items()}


def test_networks_and_files_of_single_tasks_are_the_arms(tmp_path):
    assert shown(bench_arms(recipe(), tmp_path), tmp_path) == {
        "dense": "deploy/dense.onnx",
        "rewired": "deploy/model.onnx",
        "task segmentation": "deploy/segmentation.onnx",
        "task depth": "deploy/depth.onnx",
    }


def test_what_the_recipe_adds_is_an_arm(tmp_path):
    arms = shown(bench_arms(recipe("quantize={}", "prune.macs=0.5"), tmp_path), tmp_path)
    assert arms["int8"] == "quantized/int8.onnx"
    assert arms["rewired"] == "deploy/rewired.onnx"
    assert arms["pruned_only"] == "deploy/pruned_only.onnx"
    assert arms["pruned"] == "deploy/model.onnx"


def test_the_pruned_arm_is_named_for_what_was_pruned():
    titles = arm_titles(recipe("prune.macs=0.5"))
    assert (titles["pruned"], titles["pruned_only"]) == ("pruned LOMT", "pruned only")
    assert arm_titles(recipe("prune.macs=0.5", "prune.target=dense"))["pruned"] == "pruned only"
    assert arm_titles(recipe())["rewired"] == "truncated only"
