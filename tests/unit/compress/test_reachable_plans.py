import pytest
import torch

from lomt.compress.reachable_plans import ReachablePlans
from lomt.errors import UnknownNameError
from lomt.structure import trace_structure
from tests.reference.hand_structure import TwoTasks


@pytest.fixture(scope="module")
def plans():
    torch.manual_seed(0)
    structure = trace_structure(TwoTasks(), torch.rand(1, 3, 4, 4))
    scores = {own.name: torch.rand(own.count) for own in structure.prunable}
    return ReachablePlans(structure, scores, divisor=1, minimum=0.25)


def test_the_smallest_has_the_least_widths_everywhere(plans):
    macs, keep = plans.smallest
    counts = {own.name: own.count for own in plans.structure.prunable}
    assert {name: int(mask.sum()) for name, mask in keep.items()} == {
        name: -(-count // 4) for name, count in counts.items()
    }
    assert macs == plans.structure.macs(keep) / plans.structure.macs({})


def test_a_budget_is_met_and_one_out_of_reach_gives_the_smallest(plans):
    for budget in (0.9, 0.5, 0.3):
        macs, keep = plans.within(budget)
        assert macs == plans.structure.macs(keep) / plans.structure.macs({}) <= budget
    assert plans.within(plans.smallest[0] / 2) is plans.smallest


@pytest.mark.parametrize("limit", [0.95, 0.6, 0.35])
def test_the_largest_that_fits_is_found(plans, limit):
    best, _ = plans.within(limit)
    found, keep = plans.largest(lambda macs, keep: macs <= limit)
    assert best - 0.003 <= found <= limit
    assert found == plans.structure.macs(keep) / plans.structure.macs({})


def test_where_nothing_fits_it_is_the_smallest(plans):
    assert plans.largest(lambda macs, keep: False) is plans.smallest


def test_an_unknown_ranking_is_refused(plans):
    scores = {own.name: torch.rand(own.count) for own in plans.structure.prunable}
    with pytest.raises(UnknownNameError, match="Unknown ranking `best`"):
        ReachablePlans(plans.structure, scores, ranking="best")
