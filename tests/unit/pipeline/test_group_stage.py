import json
from pathlib import Path

import pytest
import yaml

from lomt.errors import UnknownNameError
from lomt.pipeline import group
from lomt.pipeline.group_stage import group_recipe
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
    assert found.affinity.matrix.tolist() == stored["affinity"]
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
    assert again.affinity.matrix.equal(found.affinity.matrix)


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
    assert found.affinity.method == method
    assert found.groups == (("segmentation", "depth"),)
    assert not (tmp_path / "new" / "group" / "heat_map.png").exists()
    if method == "cosine":
        assert found.affinity.matrix.diag().tolist() == pytest.approx([1, 1])


def test_groups_by_hand_need_no_training(tmp_path):
    file = tmp_path / "groups.yaml"
    file.write_text("- [depth]\n- [segmentation]\n")
    found, texts = go(tmp_path / "new", groups=file)

    assert texts == []
    assert [list(load_recipe(str(path)).tasks) for path in found.recipes] == [["depth"], ["segmentation"]]
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
        "rewire": {"branch_points": {"segmentation": "layer2", "depth": "layer3"}},
        "prune": {"macs": 0.5, "distill": {"weights": {"segmentation": 0.5}}},
    }
    recipe = parse_recipe(raw, check_names=False)
    one = group_recipe(recipe, ("depth",), 1)

    assert parse_recipe(one, check_names=False).target is None
    assert one["rewire"]["branch_points"] == {"depth": "layer3"}
    assert one["prune"]["distill"]["weights"] == {}
    assert group_recipe(recipe, ("segmentation",), 2)["target"] == "segmentation"
