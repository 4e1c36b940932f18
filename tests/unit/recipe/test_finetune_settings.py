"""The keys of the finetune stage."""

from lomt.recipe import Recipe


def test_without_the_block_there_is_no_such_stage(base):
    assert Recipe.model_validate(base).finetune is None
    assert Recipe.model_validate({**base, "finetune": None}).finetune is None


def test_everything_left_out_is_filled_in(base):
    finetune = Recipe.model_validate({**base, "finetune": {"target": "depth"}}).finetune
    assert (finetune.network, finetune.share, finetune.loss_batches) == (None, 0.5, 8)
    assert finetune.train == Recipe.model_validate(base).train


def test_training_is_inherited_key_by_key_and_survives_being_stored(base):
    base["finetune"] = {"target": "depth", "train": {"epochs": 7}}
    recipe = Recipe.model_validate(base)
    assert recipe.finetune.train.epochs == 7
    assert recipe.finetune.train.optimizer == recipe.train.optimizer
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe
