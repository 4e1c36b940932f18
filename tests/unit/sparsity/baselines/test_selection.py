import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lomt.errors import ScoreError, SparsityTargetError, UnknownNameError
from lomt.sparsity.baselines import keep_highest
from tests.reference import sparse_baselines as reference

NUMBERS = st.lists(st.integers(0, 5), min_size=1, max_size=12)


@given(first=NUMBERS, second=NUMBERS, target=st.floats(0, 0.99))
def test_exactly_the_share_goes_and_the_highest_stay(first, second, target):
    scores = {"a": torch.tensor(first).double(), "b": torch.tensor(second).double()}
    keep = keep_highest(scores, target)
    size = len(first) + len(second)
    expected = reference.keep_top(scores, size - round(target * size))

    assert all(keep[name].equal(expected[name]) for name in scores)


def test_within_components_each_loses_the_same_share():
    scores = {
        "backbone.a": torch.arange(10.0),
        "backbone.b": torch.arange(10.0),
        "depth": 100 + torch.arange(4.0),
    }
    parts = {"backbone.a": "backbone", "backbone.b": "backbone", "depth": "depth"}
    keep = keep_highest(scores, 0.5, components=parts, scope="component")

    assert int(keep["depth"].sum()) == 2
    assert int(keep["backbone.a"].sum() + keep["backbone.b"].sum()) == 10
    assert int(keep_highest(scores, 0.5)["depth"].sum()) == 4


def test_what_is_gone_is_the_first_to_go_again():
    scores = {"a": torch.tensor([-torch.inf, 0.0, -torch.inf, 5.0])}
    assert keep_highest(scores, 0.5)["a"].tolist() == [False, True, False, True]
    assert keep_highest(scores, 0.75)["a"].tolist() == [False, False, False, True]


@pytest.mark.parametrize("target", [-0.1, 1.0, float("nan")])
def test_a_share_that_is_none(target):
    with pytest.raises(
        SparsityTargetError,
        match=f"^Expected `target` to be a share of at least 0 and below 1, but got {target}. It is the share that",
    ):
        keep_highest({"a": torch.ones(3)}, target)


def test_an_unknown_scope():
    with pytest.raises(UnknownNameError, match="Unknown scope `layer`. Known are component, model."):
        keep_highest({"a": torch.ones(3)}, 0.5, scope="layer")


def test_scores_that_are_no_numbers():
    with pytest.raises(ScoreError, match="^Expected the scores of `b` to be numbers, but some are not."):
        keep_highest({"a": torch.ones(3), "b": torch.tensor([1.0, torch.nan])}, 0.5)
