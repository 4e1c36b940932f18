"""The keys of the sparsify stage."""

import typing

import pytest

from lomt.errors import RecipeError
from lomt.recipe import Recipe, SparsifySettings, load_recipe
from lomt.recipe.sparsify_settings import LEARNED_METHODS


def test_without_the_block_there_is_no_such_stage(base):
    assert Recipe.model_validate(base).sparsify is None
    assert Recipe.model_validate({**base, "sparsify": None}).sparsify is None


def test_everything_left_out_is_filled_in_and_training_is_inherited(base):
    base["sparsify"] = {"target": {"macs": 0.5}, "train": {"epochs": 7, "optimizer": {"weight_decay": 0.5}}}
    recipe = Recipe.model_validate(base)
    sparsify = recipe.sparsify
    assert (sparsify.method, sparsify.granularity, sparsify.network) == ("both", "structured", "rewired")
    assert (sparsify.logits, sparsify.metric, sparsify.start) == ("component", "euclidean", "published")
    assert (sparsify.train.epochs, sparsify.train.optimizer.lr) == (7, 0.001)
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe


def test_methods_are_those_of_the_libraries():
    from lomt.compress.channel_baselines import MEASURES
    from lomt.recipe import SparsifyTarget
    from lomt.sparsity.baselines import BASELINES

    methods = typing.get_args(SparsifySettings.model_fields["method"].annotation)
    assert set(methods) == {*LEARNED_METHODS, *BASELINES}
    assert set(SparsifyTarget.model_fields) == set(MEASURES)


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        (
            "sparsify={target: {macs: 1.0}}",
            "`sparsify.target.macs`: expected a number of less than 1, but got 1.0.",
        ),
        (
            "sparsify={target: {params: -0.1}}",
            "`sparsify.target.params`: expected a number of at least 0, but got -0.1.",
        ),
        (
            "sparsify={target: {}}",
            "`sparsify.target`: expected just one of removable, params, macs, but got none.",
        ),
        (
            "sparsify={target: {macs: 0.5, params: 0.5}}",
            "`sparsify.target`: expected just one of removable, params, macs, but got params and macs.",
        ),
        (
            "sparsify={method: snap, target: {macs: 0.5}}",
            "`sparsify.method`: expected one of thresholds, group_lasso, both, global_magnitude, imp, lth, snip, "
            'disparse_static, disparse_pretrained, but got "snap", did you mean `snip`?',
        ),
        (
            "sparsify={target: {macs: 0.5}, components: [backbone, dept]}",
            "`sparsify.components.1`: unknown part, did you mean `depth`? Known are backbone, segmentation, depth, "
            "normals, edges.",
        ),
        (
            "sparsify={method: snip, granularity: unstructured, target: {macs: 0.5}}",
            "`sparsify.target.macs`: needs granularity structured: zeros in single weights remove nothing. "
            "Give `sparsify.target.params`.",
        ),
        (
            "sparsify={method: group_lasso, granularity: unstructured, target: {params: 0.5}}",
            "`sparsify.method`: group_lasso needs granularity structured: the group lasso makes whole channels zero. "
            "Take thresholds, or a baseline.",
        ),
        (
            "sparsify={target: {macs: 0.5}, metric: adam, train: {optimizer: {kind: sgd}}}",
            "`sparsify.metric`: adam needs optimizer adam or adamw, but got sgd; take euclidean.",
        ),
        (
            "sparsify={target: {macs: 0.5}, metric: adam, branch_weight: 1.0}",
            "`sparsify.branch_weight`: needs metric euclidean, but got adam; leave it at 0.",
        ),
        (
            "sparsify={target: {macs: 0.5}, ramp_epochs: 5}",
            "`sparsify.ramp_epochs`: expected at most `sparsify.train.epochs`, 4, but got 5.",
        ),
        (
            "sparsify={method: imp, rounds: 5, target: {macs: 0.5}}",
            "`sparsify.rounds`: expected at most 3, one more than the epochs that rounds share, but got 5. Give more "
            "`sparsify.ramp_epochs`.",
        ),
        (
            "prune={target: sparse, macs: 0.5}",
            "`prune.target`: sparse needs a block `sparsify`, and there is none. Give one, or cut rewired.",
        ),
    ],
)
def test_mistakes(override, problem):
    with pytest.raises(RecipeError) as caught:
        load_recipe("rooms_demo", [override], check_names=False)
    assert caught.value.problems == (problem,)


def test_ramp_epochs_do_not_matter_to_a_method_that_cuts_once():
    settings = "sparsify={method: snip, target: {macs: 0.5}, ramp_epochs: 9, rounds: 9}"
    assert load_recipe("rooms_demo", [settings], check_names=False).sparsify.ramp_epochs == 9
