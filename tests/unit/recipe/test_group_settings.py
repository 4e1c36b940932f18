from pathlib import Path

import pytest
import yaml

from lomt.errors import RecipeError
from lomt.recipe import parse_recipe

RAW = yaml.safe_load((Path(__file__).parents[1] / "pipeline" / "tiny.yaml").read_text())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"group": {"groups": 2, "penalty": 0.1}},
            "`group`: expected just one of groups and penalty, but got both",
        ),
        ({"group": {"groups": 3}}, "`group.groups`: expected at most 2, the number of tasks, but got 3"),
        ({"group": {"subset_size": 3}}, "`group.subset_size`: expected at most 2"),
        ({"group": {"clustering": "spectral"}}, "`group.groups`: the spectral method needs the number"),
        ({"group": {"dimensions": 3}}, "group.dimensions"),
        ({"target": "dpth"}, "`target`: unknown task `dpth`, did you mean `depth`"),
    ],
)
def test_contradictions_are_named(changes, message):
    with pytest.raises(RecipeError, match=message):
        parse_recipe({**RAW, **changes}, check_names=False)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"weighting": "switch"}, "`train.weighting`: expected `target` to name a task"),
        ({"weighting": "dwa", "weighting_options": {"temprature": 1.0}}, "did you mean `temperature`"),
        ({"aggregation": "primary_pcgrad"}, "`train.aggregation`: expected `target` to name a task"),
        ({"aggregation": "pcgrad", "aggregation_options": {"p": 1}}, "`train.aggregation`: unknown option"),
    ],
)
def test_methods_are_tried(train, message):
    with pytest.raises(RecipeError, match=message):
        parse_recipe({**RAW, "train": {**RAW["train"], **train}})


def test_methods_of_every_training_are_tried_and_inherited_mistakes_said_once():
    wrong = {"weighting": "dwa", "weighting_options": {"alpha": 1.0}}
    with pytest.raises(
        RecipeError, match=r"`rewire\.train\.weighting`: unknown option of weighting dwa `alpha`"
    ):
        parse_recipe({**RAW, "rewire": {"train": wrong}})
    with pytest.raises(RecipeError, match="`train.weighting`") as caught:
        parse_recipe({**RAW, "train": {**RAW["train"], **wrong}})
    assert len(caught.value.problems) == 1


def test_an_unknown_target_is_said_once_and_hides_no_other_mistake():
    train = {**RAW["train"], "weighting": "switch", "weighting_options": {"shares": 0.5}}
    with pytest.raises(RecipeError) as caught:
        parse_recipe({**RAW, "target": "dpth", "train": train})
    target, weighting = caught.value.problems
    assert target.startswith("`target`: unknown task `dpth`")
    assert weighting.startswith("`train.weighting`: unknown option of weighting switch `shares`")
