"""What is left of a recipe with mistakes."""

import itertools

import pytest

from lomt.errors import RecipeError
from lomt.recipe import Recipe, parse_recipe
from lomt.recipe.checks import find_contradictions
from lomt.recipe.inheritance import resolve
from lomt.recipe.lenient import read_leniently

WRONG_VALUES = (None, -1, "text", [1, "x"], {3: 4})


def test_a_right_recipe_is_read_as_validation_reads_it(base):
    resolved = resolve(base)
    lenient = read_leniently(resolved, set())
    right = Recipe.model_validate(resolved).model_dump(mode="json")
    assert lenient.model_dump(mode="json", warnings=False) == right


def test_wrong_values_are_defaults_or_none(base):
    base["data"]["workers"] = "many"
    base["train"]["epochs"] = 0
    base["tasks"]["edges"] = 3
    base["bench"] = None
    wrong = {("data", "workers"), ("train", "epochs"), ("tasks", "edges"), ("bench",)}
    recipe = read_leniently(resolve(base), wrong)
    assert recipe.data.workers == 0
    assert recipe.train.epochs is None
    assert list(recipe.tasks) == ["depth"]
    assert recipe.bench.threads == [1]


def _paths(node, path=()):
    if isinstance(node, dict):
        for key, value in node.items():
            yield (*path, key)
            yield from _paths(value, (*path, key))


def _with(raw, path, value):
    return {**raw, path[0]: value if len(path) == 1 else _with(raw[path[0]], path[1:], value)}


def test_any_wrong_value_anywhere_ends_in_problems_and_never_in_a_crash(base):
    full = Recipe.model_validate(base).model_dump(mode="json")
    refused = 0
    for path, value in zip(_paths(full), itertools.cycle(WRONG_VALUES)):
        try:
            parse_recipe(_with(full, path, value), check_names=False)
        except RecipeError as error:
            refused += 1
            assert all(problem.startswith("`") for problem in error.problems)
    assert refused > 90


@pytest.mark.parametrize("resolved", [None, 3, [], {}, {"tasks": {}}])
def test_anything_can_be_read_and_checked(resolved):
    recipe = read_leniently(resolve(resolved), {()})
    assert recipe.model.backbone.name is None
    list(find_contradictions(recipe))
