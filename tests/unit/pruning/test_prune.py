import inspect
import re

import pytest
import torch
from torch import nn

from lomt.errors import UnknownNameError
from lomt.pruning.apply import apply_plan
from lomt.pruning.plan import PruningPlan
from lomt.pruning.preconditions import PruneError, check_model
from lomt.pruning.prune import analyse, prune
from lomt.structure import TraceError, trace_structure
from tests.reference.pruning_laws import (
    assert_same_function,
    assert_untouched,
    liven,
    state_of,
    zero_consumers,
)

IMAGES = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class TwoTasks(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.block = nn.Sequential(nn.Conv2d(16, 24, 3, padding=1), nn.GroupNorm(1, 24), nn.Conv2d(24, 16, 1))
        self.depth, self.label = nn.Conv2d(16, 1, 1), nn.Linear(16, 5)

    def forward(self, images):
        features = self.stem(images)
        features = features + self.block(features)
        return {"depth": self.depth(features), "label": self.label(features.mean((2, 3)))}


def two_tasks():
    torch.manual_seed(0)
    return liven(TwoTasks())


def params_of(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("budget", ["channels", "params", "macs"])
@pytest.mark.parametrize("share", [0.7, 0.4])
def test_a_budget_is_met_and_the_predictions_hold(budget, share):
    model = two_tasks()
    before = state_of(model)
    result = prune(model, IMAGES, divisor=1, **{budget: share})
    plan, smaller = result.plan, result.model
    assert_untouched(model, before)
    again = trace_structure(smaller, IMAGES)
    assert (plan.params_before, plan.params_after) == (params_of(model), params_of(smaller))
    assert (plan.macs_before, plan.macs_after) == (trace_structure(model, IMAGES).macs(), again.macs())
    if budget == "channels":
        whole = trace_structure(model, IMAGES)
        counts = [sum(own.count for own in structure.prunable) for structure in (whole, again)]
        assert counts[1] <= share * counts[0]
    else:
        after, whole = getattr(plan, f"{budget}_after"), getattr(plan, f"{budget}_before")
        assert 0.8 * share * whole <= after <= share * whole


def test_without_a_budget_what_nobody_reads_goes_and_the_outputs_stay():
    model = two_tasks()
    structure = trace_structure(model, IMAGES)
    gone = {"stem.0": torch.arange(16) % 4 == 0}
    zero_consumers(model, structure, gone)
    result = prune(model, IMAGES)
    assert result.plan.keep == {"stem.0": tuple(place for place in range(16) if place % 4)}
    assert_same_function(model, result.model, IMAGES)
    (step,) = result.plan.steps
    assert step.kind == "exact"
    assert step.removed == {"stem.0": 4}
    assert max(step.output_change.values()) < 1e-12


def test_a_plan_from_json_makes_the_same_model():
    model = two_tasks()
    zero_consumers(model, trace_structure(model, IMAGES), {"stem.0": torch.arange(16) == 3})
    result = prune(model, IMAGES, macs=0.5, divisor=1)
    assert [step.kind for step in result.plan.steps] == ["exact", "lossy"]
    plan = PruningPlan.from_dict(result.plan.to_dict())
    assert_same_function(apply_plan(model, plan), result.model, IMAGES, 0)


def test_a_lossy_step_says_how_much_every_output_changed():
    model = two_tasks()
    result = prune(model, IMAGES, macs=0.5, divisor=1)
    (step,) = result.plan.steps
    expected, actual = model(IMAGES), result.model.eval()(IMAGES)
    for name, value in expected.items():
        change = float((actual[name] - value).detach().abs().max() / value.detach().abs().max())
        assert step.output_change[name] == pytest.approx(change, rel=1e-6)


def test_two_prunings_in_a_row():
    model = two_tasks()
    first = prune(model, IMAGES, macs=0.6, divisor=1)
    before = state_of(first.model)
    second = prune(first.model, IMAGES, macs=0.5, divisor=1)
    assert_untouched(first.model, before)
    assert second.plan.macs_before == first.plan.macs_after
    assert second.plan.macs_after <= 0.5 * first.plan.macs_after
    assert_same_function(apply_plan(apply_plan(model, first.plan), second.plan), second.model, IMAGES, 0)


def test_nothing_to_remove_gives_a_copy():
    model = two_tasks()
    result = prune(model, IMAGES)
    assert result.plan.is_empty
    assert result.model is not model
    assert_same_function(model, result.model, IMAGES, 0)


def test_modes_are_kept():
    model = two_tasks().train()
    model.stem[1].eval()
    result = prune(model, IMAGES, macs=0.5, divisor=1)
    assert [module.training for module in result.model.stem] == [True, False, True]
    assert model.training


def test_protected_layers_and_frozen_ones_keep_their_channels():
    model = two_tasks()
    model.block[0].weight.requires_grad_(False)
    structure = analyse(model, IMAGES, protect=["stem.1"])
    reasons = {own.name: own.protected for own in structure.coupled}
    assert reasons["stem.0"] == "protected as `stem.1`"
    assert reasons["block.0"] == "`block.0.weight` is frozen"


class Written(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Conv2d(16, 16, 1)

    def forward(self, features):
        return self.inner(features).reshape(-1, 16, 64).mean(2)


def test_what_cannot_be_proven_is_protected_and_the_rest_goes():
    model = liven(nn.Sequential(nn.Conv2d(3, 16, 1), Written(), nn.Linear(16, 2)))
    result = prune(model, IMAGES, macs=0.6, divisor=1)
    assert result.plan.protected["1.inner"].startswith("breaks the forward pass: RuntimeError: ")
    assert result.model[0].out_channels < 16
    assert result.model[1].inner.out_channels == 16
    assert result.model(IMAGES).shape == (2, 2)


class Broken(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, features):
        return self.layer(features).tolist()


def poisoned():
    model = two_tasks()
    model.stem[1].running_var[3] = float("nan")
    return model


BAD = {
    "no parameters": (nn.ReLU, {}, PruneError, "Expected the model to have parameters, but it has none."),
    "all frozen": (
        lambda: two_tasks().requires_grad_(False),
        {},
        PruneError,
        "Expected a model with parameters that may be changed, but all are frozen. Unfreeze what may be pruned: "
        "model.requires_grad_(True).",
    ),
    "not finite": (
        poisoned,
        {},
        PruneError,
        "Expected finite weights, but `stem.1.running_var` holds values that are infinite or not a number.",
    ),
    "does not run": (
        two_tasks,
        {"example_inputs": torch.ones(1, 4, 8, 8, dtype=torch.float64)},
        TraceError,
        "Expected the model to run on example inputs of shape (1, 4, 8, 8), but it raised RuntimeError: ",
    ),
    "no tensor": (
        Broken,
        {"example_inputs": torch.ones(1, 2)},
        TraceError,
        "Expected the model to return a tensor, or tensors in a dict, list, tuple or dataclass, but got none.",
    ),
    "no inputs": (
        two_tasks,
        {"example_inputs": ()},
        TypeError,
        "Expected `example_inputs` to be a tensor, a tuple of tensors or a dict of tensors by argument name, but got "
        "tuple.",
    ),
    "two budgets": (
        two_tasks,
        {"macs": 0.5, "params": 0.5},
        PruneError,
        "Expected just one budget, but got `params` and `macs`.",
    ),
    "no fraction": (
        two_tasks,
        {"macs": 50},
        PruneError,
        "Expected `macs` to be a fraction above 0 and at most 1, but got 50.",
    ),
    "unknown layer": (
        two_tasks,
        {"protect": ["stem.3"]},
        UnknownNameError,
        "Unknown layer to protect `stem.3`, did you mean `stem.",
    ),
    "another device": (
        two_tasks,
        {"example_inputs": torch.ones(1, 3, 8, 8, device="meta")},
        PruneError,
        "Expected `example_inputs` on the model's device cpu, but got meta. Move them: example_inputs.to('cpu').",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_pruned_is_an_error_with_the_way_out(name):
    make, options, kind, message = BAD[name]
    options = {"example_inputs": IMAGES, **options}
    with pytest.raises(kind, match=f"^{re.escape(message)}"):
        prune(make(), **options)


def test_an_error_leaves_the_model_alone():
    model = two_tasks().train()
    before = state_of(model)
    with pytest.raises(TraceError):
        prune(model, torch.ones(1, 4, 8, 8, dtype=torch.float64))
    assert_untouched(model, before)


def test_what_is_no_module_is_an_error():
    check = inspect.unwrap(check_model)  # without the checks of annotations that tests put around it
    with pytest.raises(TypeError, match=r"^Expected `model` to be a torch.nn.Module, but got int\.$"):
        check(3, IMAGES)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize("work", [analyse, prune])
def test_an_output_that_is_not_finite_is_an_error_that_names_it(work, value):
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)

        def forward(self, images):
            features = self.stem(images)
            return {"depth": self.head(features), "scores": features.mean((1, 2, 3)) * value}

    with pytest.raises(PruneError, match="Expected finite outputs .* output `scores` holds values"):
        work(Broken(), torch.rand(1, 3, 4, 4))
