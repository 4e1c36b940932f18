"""When a stage learns from an earlier network of the run."""

from pathlib import Path

import pytest
import torch

from lomt.models import load_model
from lomt.pipeline.context import open_context
from lomt.pipeline.teacher import distill_settings, make_distillation
from lomt.recipe import DistillSettings, load_recipe

TINY = str(Path(__file__).with_name("tiny.yaml"))
TAUGHT = ("data.targets=original", "model={factory: 'a.b:c', trained: true}")
GIVEN = DistillSettings(weight=0.5, weights={"depth": 0.0}, temperature=3.0)


@pytest.mark.parametrize(
    ("overrides", "given", "expected"),
    [
        (("seed=0",), None, None),
        (("seed=0",), GIVEN, GIVEN),
        (TAUGHT, None, DistillSettings()),
        (TAUGHT, GIVEN, GIVEN),
    ],
    ids=["labels", "labels and teacher", "no labels", "no labels but a block"],
)
def test_a_teacher_is_asked_for_or_taken_for_lack_of_labels(overrides, given, expected):
    recipe = load_recipe(TINY, overrides, check_names=False)
    assert distill_settings(recipe, given, recipe.train) == expected
    assert DistillSettings().weight == 1


def test_no_teacher_where_the_aggregation_has_no_place_for_one():
    recipe = load_recipe(TINY, [*TAUGHT, "train.aggregation=bayesagg"], check_names=False)
    assert distill_settings(recipe, None, recipe.train) is None
    assert distill_settings(recipe, GIVEN, recipe.train) == GIVEN


def test_the_teacher_is_the_stored_network_and_does_not_change(tiny_run, tmp_path):
    context = open_context(load_recipe(TINY), tmp_path / "run")
    folder, train = tiny_run[0] / "dense", context.recipe.train
    assert make_distillation(context, None, folder, train) is None
    made = make_distillation(context, GIVEN, folder, train)
    assert made.temperature == 3
    assert made.weights == {"segmentation": 0.5, "depth": 0.0}
    assert not made.teacher.training
    assert not any(parameter.requires_grad for parameter in made.teacher.parameters())
    images = torch.rand(2, 3, 32, 48)
    with torch.no_grad():
        for task, expected in load_model(folder)(images).items():
            torch.testing.assert_close(made.teacher(images)[task], expected)
