"""The keys of the prune stage."""

import typing

import pytest

from lomt.recipe import PruneSettings, Recipe
from lomt.recipe.prune_settings import BUDGETS


def test_without_the_block_there_is_no_such_stage(base):
    assert Recipe.model_validate(base).prune is None
    assert Recipe.model_validate({**base, "prune": None}).prune is None


def test_everything_left_out_is_filled_in(base):
    prune = Recipe.model_validate({**base, "prune": {"macs": 0.5}}).prune
    assert (prune.target, prune.importance, prune.ranking) == ("rewired", "task_weighted", "global")
    assert (prune.rounds, prune.divisor, prune.minimum, prune.protect) == (1, None, 0.1, [])
    assert prune.distill is None
    assert prune.train == Recipe.model_validate(base).train


def test_training_is_inherited_key_by_key_and_survives_being_stored(base):
    base["prune"] = {
        "params": 0.25,
        "distill": {},
        "train": {"epochs": 7, "optimizer": {"weight_decay": 0.5}},
    }
    recipe = Recipe.model_validate(base)
    assert (recipe.prune.train.epochs, recipe.prune.train.optimizer.lr) == (7, 0.001)
    assert recipe.prune.distill.temperature == 2.0
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe


def test_importances_rankings_and_budgets_are_those_of_pruning():
    from lomt.pruning.importance import IMPORTANCES
    from lomt.pruning.ranking import RANKINGS

    fields = PruneSettings.model_fields
    assert set(typing.get_args(fields["importance"].annotation)) == set(IMPORTANCES)
    assert set(typing.get_args(fields["ranking"].annotation)) == set(RANKINGS)
    assert set(BUDGETS) <= set(fields)


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("prune.macs=0", "`prune.macs`: expected a number of more than 0, but got 0."),
        (
            "prune={macs: 0.5, importance: taylro}",
            "`prune.importance`: expected one of magnitude, batchnorm, taylor, random, task_union, task_share, "
            'task_weighted, but got "taylro", did you mean `taylor`?',
        ),
        ("prune={macs: 0.5, rounds: 0}", "`prune.rounds`: expected a number of at least 1, but got 0."),
        (
            "prune={macs: 0.5, distill: {weight: 0}}",
            "`prune.distill.weight`: expected a number of more than 0, but got 0.",
        ),
        (
            "prune={macs: 0.5, divisors: 4}",
            "`prune.divisors`: unknown key, did you mean `divisor`? Known are target, channels, params, macs, "
            "latency_ms, threads, importance, loss_batches, divisor, ranking, minimum, protect, rounds, "
            "recalibrate_batches, distill, pruned_only, train.",
        ),
    ],
)
def test_mistakes_are_named(problems_of, override, problem):
    assert problems_of(override) == [problem]


def test_every_mistake_comes_at_once(problems_of):
    found = problems_of(
        "prune={channels: 2, target: wired, distill: {weights: {edgse: 1}}, train: {epochs: 0}}"
    )
    assert [problem.partition(":")[0] for problem in found] == [
        "`prune.channels`",
        "`prune.distill.weights.edgse`",
        "`prune.target`",
        "`prune.train.epochs`",
    ]
