"""Changes from the command line."""

import pytest

from lomt.errors import RecipeError
from lomt.recipe import parse_recipe
from lomt.recipe.overrides import apply_overrides


def test_values_are_yaml_and_later_ones_win():
    raw = {"a": {"b": 1}, "c": 2}
    changed, problems = apply_overrides(raw, ["a.b=[1, x]", "c=1e-3", "c=null", "d= {e: true}"])
    assert changed == {"a": {"b": [1, "x"]}, "c": None, "d": {"e": True}}
    assert problems == []
    assert raw == {"a": {"b": 1}, "c": 2}


def test_only_the_first_equals_sign_separates():
    assert apply_overrides({}, ["a=b=c"])[0] == {"a": "b=c"}


def test_keys_inside_optional_and_inheriting_blocks_can_be_set(base):
    recipe = parse_recipe(
        base,
        [
            "train.early_stopping.patience=3",
            "locate.train.optimizer.lr=0.5",
            "rewire.branch_points.depth=layer2",
            "rewire.branch_points.edges=layer1",
            "tasks.edges.decoder.width=16",
            "model.backbone.options.stem_width=64",
        ],
        check_names=False,
    )
    assert recipe.train.early_stopping.patience == 3
    assert recipe.locate.train.early_stopping.patience == 3
    assert (recipe.train.optimizer.lr, recipe.locate.train.optimizer.lr) == (0.001, 0.5)
    assert recipe.rewire.branch_points == {"depth": "layer2", "edges": "layer1"}
    assert (recipe.tasks["depth"].decoder.width, recipe.tasks["edges"].decoder.width) == (64, 16)
    assert recipe.model.backbone.options == {"stem_width": 64}


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("train.epochs", "--set train.epochs: expected key=value, for example train.epochs=3."),
        ("=3", "--set =3: expected key=value, for example train.epochs=3."),
        ("train..epochs=3", "--set train..epochs=3: expected key=value, for example train.epochs=3."),
        (
            "data.size=[96",
            "--set data.size=[96: the value is no YAML: line 1, column 4: expected ',' or ']', but got "
            "'<stream end>' (while parsing a flow sequence).",
        ),
        ("name.first=x", "--set name.first=x: `name` is no block, so it has no key `first`."),
        ("data.size.0=96", "--set data.size.0=96: `data.size` is no block, so it has no key `0`."),
        (
            "tasks.depht.weight=2",
            "--set tasks.depht.weight=2: there is no `tasks.depht`, did you mean `depth`? "
            "Known are depth, edges.",
        ),
        (
            "tasks.qqq.weight=2",
            "--set tasks.qqq.weight=2: there is no `tasks.qqq`. Known are depth, edges.",
        ),
        (
            "train.epoch=3",
            "`train.epoch`: unknown key, did you mean `epochs`? Known are epochs, batch_size, "
            "accumulation_steps, precision, optimizer, schedule, weighting, weighting_options, aggregation, "
            "aggregation_options, gradient_clip, early_stopping, "
            "keep, checkpoint_s, tensorboard.",
        ),
    ],
)
def test_a_bad_override_is_a_problem(problems_of, override, problem):
    assert problems_of(override) == [problem]


def test_bad_overrides_and_other_mistakes_are_reported_together(problems_of):
    assert problems_of("train.epochs=0", "oops") == [
        "--set oops: expected key=value, for example train.epochs=3.",
        "`train.epochs`: expected a number of at least 1, but got 0.",
    ]


def test_a_whole_new_task_can_be_set(base):
    recipe = parse_recipe(base, ["tasks.normals={kind: normals}"], check_names=False)
    assert list(recipe.tasks) == ["depth", "edges", "normals"]


def test_a_recipe_that_is_no_mapping_is_refused():
    with pytest.raises(RecipeError) as caught:
        parse_recipe(["a"])
    assert caught.value.problems == ('expected a mapping of keys, but got ["a"].',)
