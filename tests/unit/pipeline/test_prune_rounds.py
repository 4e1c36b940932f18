"""How much is left after cuts in a row."""

import pytest

from lomt.pipeline.prune_rounds import budget_of, counted_by, share_kept
from lomt.pruning.plan import PruningPlan
from lomt.recipe import load_recipe


def plan(kept, counts, params, macs, protected=()):
    return PruningPlan(
        keep=kept,
        tensors={},
        attributes=(),
        replaced=(),
        protected=dict.fromkeys(protected, "asked for"),
        counts=counts,
        params_before=params[0],
        params_after=params[1],
        macs_before=macs[0],
        macs_after=macs[1],
    )


FIRST = plan({"a": (0, 2)}, {"a": 4, "b": 4, "out": 9}, (100, 60), (1000, 500), ["out"])
SECOND = plan({"b": (1,)}, {"a": 2, "b": 4, "out": 9}, (60, 30), (500, 400), ["out"])


@pytest.mark.parametrize(
    ("budget", "shares"), [("params", (0.6, 0.3)), ("macs", (0.5, 0.4)), ("channels", (6 / 8, 3 / 8))]
)
def test_shares_multiply(budget, shares):
    assert share_kept((), budget) == 1.0
    assert share_kept((FIRST,), budget) == pytest.approx(shares[0])
    assert share_kept((FIRST, SECOND), budget) == pytest.approx(shares[1])


@pytest.mark.parametrize("budget", ["channels", "params", "macs"])
def test_the_budget_is_the_one_given(budget):
    recipe = load_recipe("rooms_demo", [f"prune.{budget}=0.25"], check_names=False)
    assert budget_of(recipe.prune) == (budget, 0.25)


def test_a_latency_is_a_budget_and_what_is_left_is_counted_in_macs():
    recipe = load_recipe("rooms_demo", ["prune.latency_ms=2.5"], check_names=False)
    assert budget_of(recipe.prune) == ("latency_ms", 2.5)
    assert counted_by("latency_ms") == "macs"
    assert counted_by("params") == "params"
