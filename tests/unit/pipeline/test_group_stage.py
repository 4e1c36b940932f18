import json
import sys
from pathlib import Path

import pytest
import torch
import yaml

from lomt.errors import LomtError, ScoreError, UnknownNameError
from lomt.pipeline import group
from lomt.pipeline.group_recipes import group_recipe
from lomt.recipe import load_recipe, parse_recipe
from lomt.training import SilentProgress

RECIPE = Path(__file__).with_name("tiny.yaml")
SMALL = ("group.samples=8", "group.held_out=8", "group.groups=2", "group.dimension=20")


class Messages(SilentProgress):
    def __init__(self):
        self.texts = []

    def message(self, text):
        self.texts.append(text)


def go(out, *overrides, **choices):
    messages = Messages()
    found = group(load_recipe(str(RECIPE), (*SMALL, *overrides)), out, progress=messages, **choices)
    return found, messages.texts


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    pytest.importorskip("cvxpy")
    pytest.importorskip("matplotlib")
    out = tmp_path_factory.mktemp("runs") / "tiny"
    return out, *go(out)


def test_artefacts_are_there(finished):
    out, found, texts = finished
    stored = json.loads((out / "group" / "affinity.json").read_text())

    assert texts == ["train: dense multitask network", "group: affinities of 2 tasks by gradtag"]
    assert stored["tasks"] == ["segmentation", "depth"]
    assert stored["held_out"] == "validation"
    assert stored["grouping"]["status"] == "optimal"
    assert [record["tasks"] for record in stored["subsets"]] == [
        ["segmentation"],
        ["depth"],
        ["segmentation", "depth"],
    ]
    assert found.evidence.matrix.tolist() == stored["affinity"]
    assert yaml.safe_load((out / "group" / "groups.yaml").read_text()) == [list(own) for own in found.groups]
    assert (out / "group" / "heat_map.png").stat().st_size > 1000
    assert "networks" in str(found)


def test_each_group_has_a_recipe_that_is_valid(finished):
    _, found, _ = finished
    recipes = [load_recipe(str(path)) for path in found.recipes]

    assert [tuple(recipe.tasks) for recipe in recipes] == list(found.groups)
    assert [recipe.name for recipe in recipes] == ["tiny_1", "tiny_2"]


def test_a_second_time_nothing_runs(finished):
    out, found, _ = finished
    again, texts = go(out)

    assert texts == []
    assert again.groups == found.groups
    assert again.evidence.matrix.equal(found.evidence.matrix)


@pytest.mark.parametrize("method", ["lookahead", "cosine"])
def test_measured_while_training(finished, tmp_path, method):
    found, texts = go(
        tmp_path / "new",
        f"group.method={method}",
        "group.batches=1",
        "group.groups=1",
        "group.heat_map=false",
    )

    assert texts == [f"group: affinities of 2 tasks by {method}"]
    assert found.evidence.method == method
    assert found.groups == (("segmentation", "depth"),)
    assert not (tmp_path / "new" / "group" / "heat_map.png").exists()
    if method == "cosine":
        assert found.evidence.matrix.diag().tolist() == pytest.approx([1, 1])


def test_tag_picks_networks_among_measured_affinities(tmp_path):
    choices = ("group.method=lookahead", "group.clustering=tag", "group.batches=1", "group.heat_map=false")
    found, _ = go(tmp_path / "new", *choices)

    assert found.grouping.method == "tag"
    assert found.groups == (("segmentation", "depth"),)
    assert "tag on affinities by lookahead" in (tmp_path / "new" / "group" / "groups.yaml").read_text()


class KilledAfter(Messages):
    def __init__(self, steps):
        super().__init__()
        self.left = steps

    def advance(self, count=1, **figures):
        self.left -= 1
        if self.left == 0:
            raise SystemExit


@pytest.fixture(scope="module")
def with_classes():
    raw = yaml.safe_load(RECIPE.read_text())
    raw["tasks"] = {"segmentation": {"kind": "segmentation"}, "edges": {"kind": "edges"}}
    raw["train"] = {**raw["train"], "epochs": 2, "checkpoint_s": 1e-9}
    raw["group"] = {"groups": 2, "samples": 10}
    return raw


@pytest.mark.parametrize("method", ["dmtg", "data_maps"])
def test_a_search_that_was_killed_goes_on_and_ends_alike(tmp_path, with_classes, method):
    pytest.importorskip("matplotlib")
    raw = {**with_classes, "group": {**with_classes["group"], "method": method}}
    recipe = parse_recipe(raw, check_names=False)
    messages = Messages()
    whole = group(recipe, tmp_path / "whole", progress=messages)
    with pytest.raises(SystemExit):
        group(recipe, tmp_path / "cut", progress=KilledAfter(4))
    assert (tmp_path / "cut" / "group" / "train.checkpoint").exists()
    again = group(recipe, tmp_path / "cut")

    stored = json.loads((tmp_path / "whole" / "group" / "membership.json").read_text())
    assert messages.texts == [f"group: 2 tasks in 2 groups by {method}"]
    assert not (tmp_path / "whole" / "dense").exists()
    assert whole.evidence.matrix.equal(again.evidence.matrix)
    assert whole.evidence.matrix.sum(1).tolist() == pytest.approx([1, 1])
    assert stored["membership"] == whole.evidence.matrix.tolist()
    assert stored["grouping"]["groups"] == [list(own) for own in whole.groups]
    assert sorted(task for own in whole.groups for task in own) == ["edges", "segmentation"]
    assert (tmp_path / "whole" / "group" / "heat_map.png").stat().st_size > 1000
    assert not (tmp_path / "whole" / "group" / "train.checkpoint").exists()
    assert f"{method}, see membership.json" in (tmp_path / "whole" / "group" / "groups.yaml").read_text()
    assert "how much each task belongs" in str(whole)
    if method == "data_maps":
        assert (stored["samples"], stored["epochs"], stored["fuzziness"]) == (16, 2, 1.07)
        assert set(whole.groups) == {("segmentation",), ("edges",)}
    else:
        assert torch.tensor(stored["logits"]).softmax(1).flatten().tolist() == pytest.approx(
            whole.evidence.matrix.flatten().tolist()
        )
        assert load_recipe(str(whole.recipes[0])).name == "tiny_1"


def test_a_task_that_training_leaves_out_has_no_data_map(tmp_path, with_classes):
    train = {
        **with_classes["train"],
        "weighting": "switch",
        "weighting_options": {"share": 0.5},
    }
    changes = {"target": "edges", "train": train, "group": {"method": "data_maps", "groups": 2}}
    recipe = parse_recipe({**with_classes, **changes}, check_names=False)
    with pytest.raises(
        ScoreError, match="task `segmentation` to be trained in all epochs.* weighting `switch`"
    ):
        group(recipe, tmp_path)


def test_what_early_stopping_cuts_to_one_epoch_is_refused(tmp_path, with_classes):
    recipe = parse_recipe({**with_classes, "group": {"method": "data_maps", "groups": 2}}, check_names=False)
    short = recipe.model_copy(update={"train": recipe.train.model_copy(update={"epochs": 1})})
    with pytest.raises(ValueError, match=r"`train.epochs` to be at least 2, .* training ended after 1"):
        group(short, tmp_path)


def test_a_search_without_a_number_is_refused(tmp_path, with_classes):
    recipe = parse_recipe({**with_classes, "group": {"method": "dmtg", "groups": 2}}, check_names=False)
    open_ended = recipe.model_copy(update={"group": recipe.group.model_copy(update={"groups": None})})
    with pytest.raises(ValueError, match=r"`group.groups` to say how many networks for `group.method: dmtg`"):
        group(open_ended, tmp_path)


def test_groups_by_hand_need_no_training(tmp_path):
    file = tmp_path / "groups.yaml"
    file.write_text("- [depth]\n- [segmentation]\n")
    found, texts = go(tmp_path / "new", groups=file)

    assert texts == []
    assert [list(load_recipe(str(path)).tasks) for path in found.recipes] == [["depth"], ["segmentation"]]
    file.write_text("- [depth]\n- [segmentation, +depth]\n")
    found, _ = go(tmp_path / "new", groups=file)
    assert [list(load_recipe(str(path)).tasks) for path in found.recipes] == [
        ["depth"],
        ["segmentation", "depth"],
    ]
    assert "segmentation (trained on depth as well)" in str(found)
    assert "# One network of 2: segmentation (trained on depth as well)." in found.recipes[1].read_text()
    file.write_text("- [depht]\n")
    with pytest.raises(UnknownNameError, match="Unknown task `depht`"):
        go(tmp_path / "new", groups=file)


def test_one_task_is_refused(tmp_path):
    recipe = load_recipe(str(RECIPE))
    alone = recipe.model_copy(update={"tasks": {"depth": recipe.tasks["depth"]}})
    with pytest.raises(ValueError, match="recipe `tiny` to have at least two tasks, but got one"):
        group(alone, tmp_path)


def test_a_groups_recipe_keeps_what_belongs_to_it():
    raw = yaml.safe_load(RECIPE.read_text())
    raw |= {
        "target": "segmentation",
        "rewire": {
            "branch_points": {"segmentation": "layer2", "depth": "layer3"},
            "distill": {"weights": {"depth": 0.5, "segmentation": 2.0}},
        },
        "prune": {"macs": 0.5, "distill": {"weights": {"segmentation": 0.5}}},
    }
    recipe = parse_recipe(raw, check_names=False)
    one = group_recipe(recipe, ("depth",), 1)

    assert parse_recipe(one, check_names=False).target is None
    assert one["rewire"]["branch_points"] == {"depth": "layer3"}
    assert one["rewire"]["distill"]["weights"] == {"depth": 0.5}
    assert one["prune"]["distill"]["weights"] == {}
    assert group_recipe(recipe, ("segmentation",), 2)["target"] == "segmentation"


@pytest.mark.parametrize(("package", "extra"), [("matplotlib.figure", "heat_map"), ("cvxpy", "spectral")])
def test_missing_package_is_noticed_before_the_training(tmp_path, monkeypatch, package, extra):
    pytest.importorskip("matplotlib")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(LomtError, match=rf"pip install lomt\[grouping\].*{extra}"):
        go(tmp_path / "run")

    assert not (tmp_path / "run").exists()
