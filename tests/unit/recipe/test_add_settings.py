"""The keys of `lomt add`."""

from lomt.recipe import AddSettings, Recipe


def test_without_the_block_the_defaults_are_those_of_the_recipes_training(base):
    recipe = Recipe.model_validate(base)
    assert recipe.add is None
    add = Recipe.model_validate({**base, "add": {}}).add
    assert add == AddSettings(train=recipe.train)
    assert (add.penalty, add.threshold, add.initial_score, add.warmup_epochs) == (1.0, 0.1, 0.15, 2)


def test_training_is_inherited_key_by_key_and_survives_being_stored(base):
    base["add"] = {"task": "depth", "train": {"epochs": 7}}
    recipe = Recipe.model_validate(base)
    assert recipe.add.train.epochs == 7
    assert recipe.add.train.optimizer == recipe.train.optimizer
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe
