"""The one-run locate, its artefacts, and both methods side by side."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from lomt.branching import SelectionError
from lomt.errors import RecipeError
from lomt.pipeline import run
from lomt.recipe import load_recipe
from lomt.training import SilentProgress

RECIPE = Path(__file__).with_name("tiny.yaml")
JOINT = (
    "locate.method=joint",
    "locate.joint.epochs=3",
    "locate.joint.width=4",
    "locate.joint.lambda_stop=0.3",
)


class Messages(SilentProgress):
    """Remembers what the run said; may end the work at a step."""

    def __init__(self, steps=None):
        self.texts, self.left = [], steps

    def message(self, text):
        self.texts.append(text)

    def advance(self, count=1, **figures):
        if self.left is not None and any(text.startswith("locate") for text in self.texts):
            self.left -= 1
            if not self.left:
                raise SystemExit


def go(out, *overrides, steps=None):
    messages = Messages(steps)
    run(load_recipe(str(RECIPE), overrides), out, last="locate", progress=messages)
    return messages.texts


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "tiny"
    go(out, *JOINT)
    return out


@pytest.fixture
def copy(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "tiny"))


def survival(out, trial=""):
    return json.loads((out / "locate" / "joint" / f"survival{trial}.json").read_text())["survival"]


def test_artefacts_are_those_of_the_other_method(finished):
    points = yaml.safe_load((finished / "locate" / "branch_points.yaml").read_text())
    profiles = json.loads((finished / "locate" / "profiles.json").read_text())
    known = {layer["layer"] for layer in profiles["profiles"][0]["layers"]}

    assert set(points) == {"segmentation", "depth"}
    assert set(points.values()) <= known
    assert profiles["reading"]["method"] == "joint"
    assert "share of the lambda path" in (finished / "locate" / "branch_points.yaml").read_text()
    assert not list(finished.rglob("*.checkpoint"))


def test_rewire_takes_the_branch_points(copy):
    from lomt.models import load_model

    run(load_recipe(str(RECIPE), JOINT), copy, last="rewire")

    assert load_model(copy / "rewired").branch_points == yaml.safe_load(
        (copy / "locate" / "branch_points.yaml").read_text()
    )


def test_second_run_and_another_rule_train_nothing(copy):
    assert go(copy, *JOINT) == []
    texts = go(copy, *JOINT, "locate.joint.rule=longest_survivor", "locate.joint.point=0.5")

    assert [text.split(" needs ")[0] for text in texts] == ["locate: segmentation", "locate: depth"]


def test_settings_of_the_other_method_do_not_count(copy):
    assert go(copy, *JOINT, "locate.lambdas.count=1", "locate.stop.sparsity=0.5") == []


def test_both_methods_stay_and_are_compared(copy):
    before = survival(copy)
    texts = go(copy, "locate.stop.sparsity=1.0")
    report = json.loads((copy / "locate" / "report.json").read_text())
    text = (copy / "locate" / "report.txt").read_text()

    assert any("alone" in said for said in texts)
    assert survival(copy) == before
    assert set(report["methods"]) == {"single_task", "joint"}
    assert set(report["layers_apart"]) == {"segmentation", "depth"}
    assert report["methods"]["joint"]["cost"]["steps"] == 9
    assert report["methods"]["single_task"]["cost"]["steps"] == 2 * 2 * 3
    assert "within one layer" in text
    assert "9 steps" in text
    assert "3.00 of the dense training's steps" in text
    # And back again, without training.
    assert [said.split(" needs ")[0] for said in go(copy, *JOINT)] == [
        "locate: segmentation",
        "locate: depth",
    ]


def test_every_seed_is_a_run(tmp_path):
    go(tmp_path / "run", *JOINT, "locate.seeds=2", "locate.joint.epochs=1")
    profiles = json.loads((tmp_path / "run" / "locate" / "profiles.json").read_text())["profiles"]

    assert (tmp_path / "run" / "locate" / "joint" / "survival_1.json").exists()
    assert all(len(layer["densities"]) == 2 for profile in profiles for layer in profile["layers"])


@pytest.mark.parametrize("steps", [2, 5])
def test_killed_and_resumed_ends_the_same(finished, tmp_path, steps):
    shutil.copytree(finished / "dense", tmp_path / "run" / "dense")
    shutil.copy(finished / "recipe.yaml", tmp_path / "run")
    changes = (*JOINT, "train.checkpoint_s=0.001")
    with pytest.raises(SystemExit):
        go(tmp_path / "run", *changes, steps=steps)
    go(tmp_path / "run", *changes)

    assert survival(tmp_path / "run") == survival(finished)
    lines = [
        [json.loads(line) for line in (out / "locate" / "joint" / "history.jsonl").read_text().splitlines()]
        for out in (finished, tmp_path / "run")
    ]
    assert [r["train_loss"] for r in lines[0]] == [r["train_loss"] for r in lines[1]]
    assert [r["alive_channels"] for r in lines[0]] == [r["alive_channels"] for r in lines[1]]


def test_measured_times_are_kept(copy):
    changes = (*JOINT, "locate.joint.cost=milliseconds")
    go(copy, *changes)
    stored = json.loads((copy / "locate" / "joint" / "costs.json").read_text())

    assert stored["cost"] == "milliseconds"
    assert min(stored["cumulative"].values()) > 0


def test_single_candidate_layer_is_refused(finished, tmp_path, monkeypatch):
    from lomt.pipeline.parts import Parts

    every = Parts.layers.func
    monkeypatch.setattr(Parts, "layers", property(lambda self: every(self)[-1:]))
    shutil.copytree(finished / "dense", tmp_path / "run" / "dense")
    shutil.copy(finished / "recipe.yaml", tmp_path / "run")
    with pytest.raises(
        SelectionError, match=r"at least 2 candidate layers for the joint method .* `locate.method`"
    ):
        go(tmp_path / "run", *JOINT, "locate.start=initial")


def test_unknown_cost_and_rule_are_named():
    with pytest.raises(RecipeError, match=r"locate\.joint\.cost`: .*macs.*milliseconds"):
        load_recipe(str(RECIPE), ("locate.joint.cost=flops",))
    with pytest.raises(RecipeError, match=r"locate\.joint\.rule`: "):
        load_recipe(str(RECIPE), ("locate.joint.rule=deepest",))
