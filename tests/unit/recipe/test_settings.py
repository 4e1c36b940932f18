"""The models of the recipe's blocks."""

import typing

import pytest
from pydantic import ValidationError

from lomt.recipe import IMAGE_KINDS, DecoderSettings, JointSettings, LocateSettings, Recipe, TaskSettings
from lomt.recipe.base import TaskKind
from lomt.tasks import KINDS


def test_everything_left_out_is_filled_in(base):
    recipe = Recipe.model_validate(base)
    assert (recipe.version, recipe.seed, recipe.device, recipe.threads) == (1, 0, "auto", None)
    assert recipe.data.augment.flip == 0.5
    assert recipe.train.schedule.kind == "constant"
    assert recipe.locate.train == recipe.rewire.train == recipe.train
    assert recipe.locate.lambdas.count == 10
    assert recipe.tasks["depth"].decoder == recipe.model.decoder == DecoderSettings()
    assert recipe.rewire.branch_points is None
    assert recipe.export.batch_sizes == [1, 3, 8]


def test_a_dumped_recipe_is_the_same_recipe(base):
    base["locate"] = {"train": {"epochs": 7, "optimizer": {"weight_decay": 0.5}}}
    base["tasks"]["scene"] = {"kind": "classification"}
    recipe = Recipe.model_validate(base)
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe
    assert recipe.locate.train.optimizer.lr == recipe.train.optimizer.lr
    assert recipe.tasks["scene"].decoder.kind == "classifier"


def test_recipes_cannot_be_changed(base):
    recipe = Recipe.model_validate(base)
    with pytest.raises(ValidationError, match="frozen"):
        recipe.seed = 1


def test_null_takes_back_what_would_be_inherited(base):
    base["train"]["early_stopping"] = {"patience": 3}
    base["locate"] = {"train": {"early_stopping": None}}
    recipe = Recipe.model_validate(base)
    assert recipe.rewire.train.early_stopping.patience == 3
    assert recipe.locate.train.early_stopping is None


def test_empty_blocks_are_defaults(base):
    empty = dict.fromkeys(("locate", "rewire", "export", "bench", "threads"))
    assert Recipe.model_validate(base | empty) == Recipe.model_validate(base)


def test_kinds_and_rules_are_those_of_the_library():
    from lomt.branching import RULES

    assert set(typing.get_args(TaskKind)) == set(KINDS)
    assert {kind for kind, facts in KINDS.items() if not facts.is_dense} == set(IMAGE_KINDS)
    rules = [LocateSettings.model_fields["rule"], JointSettings.model_fields["rule"]]
    assert {rule for field in rules for rule in typing.get_args(field.annotation)} == set(RULES)
    assert TaskSettings.model_fields["kind"].annotation == TaskKind


def test_every_key_is_described():
    seen = set()

    def check(kind):
        if kind in seen:
            return
        seen.add(kind)
        for name, field in kind.model_fields.items():
            assert field.description, f"{kind.__name__}.{name}"
            assert field.description.endswith("."), f"{kind.__name__}.{name}"
        assert kind.__doc__

    for kind in [Recipe, *_blocks()]:
        check(kind)
    assert len(seen) > 15


def _blocks():
    import lomt.recipe

    named = (getattr(lomt.recipe, name) for name in lomt.recipe.__all__)
    return [kind for kind in named if hasattr(kind, "model_fields") and kind is not lomt.recipe.Settings]
