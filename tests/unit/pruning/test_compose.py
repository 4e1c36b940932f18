import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lomt.pruning.apply import apply_plan
from lomt.pruning.compose import compose
from lomt.pruning.plan import AttributeChange, PruningPlan, Replacement, Step
from lomt.structure import trace_structure
from tests.reference.pruning_laws import assert_same_function, liven, plan_for, random_masks
from tests.reference.random_networks import RandomNetwork, example_images, programs


def plan(keep=None, tensors=None, counts=None, **others):
    values = {
        "attributes": (),
        "replaced": (),
        "protected": {},
        "params_before": 10,
        "params_after": 5,
        "macs_before": 100,
        "macs_after": 50,
    }
    return PruningPlan(keep=keep or {}, tensors=tensors or {}, counts=counts or {}, **{**values, **others})


def test_one_plan_is_its_own_composition():
    only = plan({"a": (0, 2)}, {"a.weight": {0: (0, 2)}}, {"a": 4})
    assert compose([only]) is only


def test_positions_of_the_second_are_looked_up_in_the_first():
    first = plan({"a": (0, 2, 3)}, {"a.weight": {0: (0, 2, 3)}}, {"a": 4, "b": 2})
    second = plan(
        {"a": (1, 2), "b": (1,)}, {"a.weight": {0: (1, 2), 1: (0,)}, "b.weight": {0: (1,)}}, {"a": 3, "b": 2}
    )
    both = compose([first, second])
    assert both.keep == {"a": (2, 3), "b": (1,)}
    assert both.tensors == {"a.weight": {0: (2, 3), 1: (0,)}, "b.weight": {0: (1,)}}
    assert both.counts == {"a": 4, "b": 2}


def test_numbers_are_those_of_the_first_before_and_the_last_after():
    both = compose([plan(), plan(params_before=5, params_after=3, macs_before=50, macs_after=20)])
    assert (both.params_before, both.params_after) == (10, 3)
    assert (both.macs_before, both.macs_after) == (100, 20)


def test_the_later_of_two_changes_of_a_number_counts_and_the_rest_adds_up():
    heads = AttributeChange("block", "num_heads", None, 3)
    fewer = AttributeChange("block", "num_heads", None, 2)
    width = AttributeChange("block", "sizes", 1, 5)
    first = plan(
        attributes=(heads, width), replaced=(Replacement("x", "identity"),), steps=(Step("exact", "one"),)
    )
    second = plan(
        attributes=(fewer,), replaced=(Replacement("y", "identity"),), steps=(Step("lossy", "two"),)
    )
    both = compose([first, second])
    assert both.attributes == (fewer, width)
    assert [own.module for own in both.replaced] == ["x", "y"]
    assert [own.what for own in both.steps] == ["one", "two"]


def test_the_first_reason_for_protection_counts():
    both = compose([plan(protected={"a": "frozen"}), plan(protected={"a": "late", "b": "an output"})])
    assert both.protected == {"a": "frozen", "b": "an output"}


def test_a_name_that_means_something_else_by_then_is_kept_apart():
    """Of two groups one went: the channels in each, which had a longer name, now have the layer's."""
    first = plan({"a": (1,)}, counts={"a": 2, "a/2": 4})
    second = plan({"a": (0, 3)}, counts={"a": 4})
    both = compose([first, second])
    assert both.keep == {"a": (1,), "a (cut again)": (0, 3)}
    assert both.counts == {"a": 2, "a/2": 4, "a (cut again)": 4}


def assert_two_cuts_are_one(program, seed):
    torch.manual_seed(seed)
    model, images = liven(RandomNetwork(program), seed), example_images(seed)
    generator = torch.Generator().manual_seed(seed)
    plans, smaller = [], model
    for _ in range(2):
        structure = trace_structure(smaller, images)
        free = [own for own in structure.prunable if own.count != 2]
        plans.append(plan_for(smaller, structure, random_masks(free, generator, 0.7)))
        smaller = apply_plan(smaller, plans[-1])
    both = compose(plans)
    at_once = apply_plan(model, both)
    assert_same_function(smaller, at_once, images, 0)
    assert both.params_after == sum(parameter.numel() for parameter in at_once.parameters())
    assert str(at_once) == str(smaller)
    assert PruningPlan.from_dict(both.to_dict()) == both


@settings(max_examples=10, deadline=None)
@given(programs(4), st.integers(0, 1000))
def test_two_cuts_of_random_networks_are_one(program, seed):
    assert_two_cuts_are_one(program, seed)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(programs(8), st.integers(0, 10_000))
def test_two_cuts_of_large_random_networks_are_one(program, seed):
    assert_two_cuts_are_one(program, seed)


def test_a_model_is_left_alone_by_a_plan_without_changes():
    model = nn.Sequential(nn.Linear(2, 2))
    both = compose([plan(), plan()])
    assert both.is_empty
    assert_same_function(model, apply_plan(model, both), torch.ones(1, 2), 0)
