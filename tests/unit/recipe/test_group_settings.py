from pathlib import Path

import pytest
import yaml

from lomt.errors import RecipeError
from lomt.grouping import LARGEST_FOR_TAG, MAPPED_KINDS
from lomt.recipe import parse_recipe
from lomt.recipe.group_settings import CLASS_KINDS, MOST_FOR_TAG

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
        ({"group": {"clustering": "tag"}}, "`group.groups`: clustering tag needs the number of groups"),
        ({"group": {"method": "dmtg"}}, "`group.groups`: method dmtg needs the number of groups"),
        (
            {"group": {"method": "data_maps", "groups": 2}},
            "`tasks.depth.kind`: expected one of classification, multilabel, segmentation, edges, because "
            "`group.method: data_maps`.* but got depth. Leave the task out",
        ),
        (
            {"group": {"method": "data_maps", "groups": 2}},
            "`train.epochs`: expected at least 2, because .* vary over epochs, but got 1",
        ),
        ({"group": {"method": "data_maps", "groups": 2, "fuzziness": 1.0}}, "`group.fuzziness`"),
        (
            {
                "group": {"method": "lookahead"},
                "target": "depth",
                "train": {**RAW["train"], "weighting": "switch"},
            },
            "`group.method`: `lookahead` measures all tasks .* but `train.weighting: switch` takes tasks out",
        ),
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
        (
            {"aggregation": "bayesagg"},
            "`tasks.depth.loss`: expected mse, because `train.aggregation` is bayesagg, but got l1.",
        ),
        (
            {"aggregation": "bayesagg", "aggregation_options": {"samples": 1}},
            "expected `samples` to be at least 2",
        ),
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


def test_tag_takes_no_more_tasks_than_it_can_do_exactly():
    tasks = {f"depth_{index}": {"kind": "depth", "target": "depth"} for index in range(13)}
    group = {"clustering": "tag", "groups": 2}
    with pytest.raises(RecipeError, match=r"`group\.clustering`: expected at most 12 tasks for tag.* are 13"):
        parse_recipe({**RAW, "tasks": tasks, "group": group}, check_names=False)


def test_what_recipes_refuse_is_what_the_methods_refuse():
    assert (CLASS_KINDS, MOST_FOR_TAG) == (MAPPED_KINDS, LARGEST_FOR_TAG)


def with_bayesagg(tasks, **decoder):
    train = {**RAW["train"], "aggregation": "bayesagg"}
    model = {**RAW["model"], "decoder": {"kind": "linear", **decoder}}
    return parse_recipe({**RAW, "tasks": tasks, "train": train, "model": model}, check_names=True)


SUPPORTED = {"segmentation": {"kind": "segmentation"}, "depth": {"kind": "depth", "loss": "mse"}}


def test_bayesagg_takes_what_it_supports():
    assert with_bayesagg(SUPPORTED).train.aggregation == "bayesagg"
    assert with_bayesagg({"edges": {"kind": "edges"}}).tasks["edges"].loss is None  # one task alone


@pytest.mark.parametrize(
    ("task", "decoder", "message"),
    [
        ({"kind": "edges"}, {}, "`tasks.edges.kind`: expected one of segmentation, depth, .* but got edges"),
        ({"kind": "edges"}, {"kind": "aspp"}, "`tasks.edges.decoder.kind`: expected linear, .* but got aspp"),
        ({"kind": "edges"}, {"dropout": 0.2}, "`tasks.edges.decoder.dropout`: expected 0, .* but got 0.2"),
    ],
)
def test_bayesagg_names_the_task_that_it_does_not_support(task, decoder, message):
    with pytest.raises(RecipeError, match=message):
        with_bayesagg({**SUPPORTED, "edges": task}, **decoder)
