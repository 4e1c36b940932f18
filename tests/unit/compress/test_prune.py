"""`lomt.prune`: which budget leads where, what is measured, and what the plan says of it."""

import inspect

import pytest
import torch
from torch import nn

import lomt
from lomt.compress.latency_search import LatencyResult
from lomt.deploy.fast_widths import DivisorReport
from lomt.errors import UnknownNameError
from lomt.pruning import BudgetError, PruneError, PruningPlan
from lomt.pruning.origin import origin_of
from lomt.pruning.prune import prune as prune_to_fraction
from lomt.structure import TraceError

IMAGES = torch.rand(1, 3, 4, 4)


class Net(nn.Module):
    """Two hidden layers; the first two channels of the first are not read."""

    def __init__(self, width=16):
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Conv2d(3, width, 1)
        self.b = nn.Conv2d(width, 8, 1)
        self.c = nn.Conv2d(8, 2, 1)
        self.b.weight.data[:, :2] = 0

    def forward(self, x):
        return self.c(self.b(self.a(x).relu()).relu())


class EvenOnly(Net):
    """Breaks where the second layer has an odd number of channels."""

    def forward(self, x):
        hidden = self.b(self.a(x).relu())
        if hidden.shape[1] % 2:
            raise RuntimeError("odd")
        return self.c(hidden)


def masks(structure, kept):
    return {own.name: torch.arange(own.count) < kept for own in structure.prunable}


@pytest.fixture
def searches(monkeypatch):
    """Put a stand-in for the search that keeps 4 channels of each layer; return what it was asked."""
    asked = []

    def search(model, inputs, latency_ms, *, structure, build, **settings):
        keep = masks(structure, 4)
        asked.append((model, latency_ms, structure, build(keep), settings))
        return LatencyResult(keep, 1.25, 1.5, 4.0, latency_ms, ())

    monkeypatch.setattr("lomt.compress.prune.prune_to_latency", search)
    return asked


@pytest.fixture
def measurements(monkeypatch):
    """Put a stand-in for the measurement of the divisor that finds 4; return what it was asked."""
    asked = []

    def measure(model, inputs, *, threads):
        asked.append((model, threads))
        return DivisorReport(4, {4: 0.031}, 0.05, (), threads, "1.0")

    monkeypatch.setattr("lomt.compress.prune.measure_divisor", measure)
    return asked


@pytest.mark.parametrize("budget", [{}, {"channels": 0.5}, {"params": 0.4}, {"macs": 0.4}])
def test_fractions_are_those_of_pruning(budget, measurements):
    result = lomt.prune(Net(), IMAGES, **budget, divisor=2)
    expected = prune_to_fraction(Net(), IMAGES, **budget, divisor=2)
    assert result.plan == expected.plan
    assert measurements == []


def test_divisor_by_name():
    result = lomt.prune(Net(), IMAGES, channels=0.65, divisor={"a": 7, "b": 8})
    assert (result.model.a.out_channels, result.model.b.out_channels) == (7, 8)


def test_divisor_by_name_of_what_goes_as_a_whole(searches):
    class Residual(Net):
        def forward(self, x):
            hidden = self.a(x).relu()
            return self.d(hidden + self.c(self.b(hidden).relu()))

        def __init__(self):
            super().__init__()
            self.c, self.d = nn.Conv2d(8, 16, 1), nn.Conv2d(16, 2, 1)
            nn.init.zeros_(self.c.weight)
            nn.init.zeros_(self.c.bias)

    divisors = {"a": 2, "b": 2}
    result = lomt.prune(Residual(), IMAGES, channels=0.5, divisor=divisors)
    assert [own.module for own in result.plan.replaced] == ["c", "b"]
    assert result.model.a.out_channels == 12  # half of all 24, and of a there were 16
    lomt.prune(Residual(), IMAGES, latency_ms=1.0, divisor=divisors)
    assert searches[0][-1]["divisor"] == {"a": 2}


def test_latency_goes_through_the_search_after_exact_removal(searches):
    model = Net()
    result = lomt.prune(model, IMAGES, latency_ms=2, divisor=2, ranking="layer", minimum=0.2, threads=3)
    ((dense, target, structure, built, settings),) = searches
    assert (dense.a.out_channels, target) == (14, 2)
    assert {own.name: own.count for own in structure.prunable} == {"a": 14, "b": 8}
    assert built(IMAGES).shape == (1, 2, 4, 4)
    assert {name: len(own) for name, own in settings.pop("scores").items()} == {"a": 14, "b": 8}
    assert settings == {"divisor": 2, "ranking": "layer", "minimum": 0.2, "threads": 3}

    assert (model.a.out_channels, result.model.a.out_channels) == (16, 4)
    assert torch.equal(result.model(IMAGES), built(IMAGES))
    exact, lossy = result.plan.steps
    assert (exact.kind, exact.removed) == ("exact", {"a": 2})
    assert lossy.what == (
        "least important channels; 1.25 ms measured (1.5 predicted, 4 dense) for a target of 2 ms, 0 attempts, "
        "3 threads of onnxruntime"
    )
    assert origin_of(result.model).plans == (result.plan,)
    assert PruningPlan.from_dict(result.plan.to_dict()) == result.plan


def test_what_was_measured_is_not_repeated_for_every_layer(searches):
    plan = lomt.prune(Net(), IMAGES, latency_ms=2, divisor=2).plan
    assert (
        dict(line.split(": ", 1) for line in plan.explain().splitlines())["b"]
        == "4 of 8 kept: 4 by least important channels (lossy)"
    )


def test_a_choice_that_the_model_does_not_bear_is_set_aside_and_the_search_begins_again(monkeypatch):
    names = []

    def search(model, inputs, latency_ms, *, structure, build, **settings):
        names.append([own.name for own in structure.prunable])
        keep = masks(structure, 5)
        build(keep)
        return LatencyResult(keep, 1.0, 1.0, 4.0, latency_ms, ())

    monkeypatch.setattr("lomt.compress.prune.prune_to_latency", search)
    result = lomt.prune(EvenOnly(), IMAGES, latency_ms=2, divisor=1)
    assert names == [["a", "b"], ["a"]]
    assert (result.model.a.out_channels, result.model.b.out_channels) == (5, 8)
    assert result.plan.protected["b"] == "breaks the forward pass: RuntimeError: odd"


def test_auto_measures_the_divisor_and_says_so(measurements):
    model = Net()
    result = lomt.prune(model, IMAGES, channels=0.5, divisor="auto", threads=2)
    assert measurements == [(model, 2)]
    assert result.model.a.out_channels % 4 == result.model.b.out_channels % 4 == 0
    assert result.plan.steps[-1].what == (
        "least important channels; divisor 4 as measured on this machine with 2 threads of onnxruntime: its "
        "multiples take +3.1% time beside those of 32"
    )


def test_auto_is_for_latencies_too(measurements, searches):
    result = lomt.prune(Net(), IMAGES, latency_ms=2, divisor="auto")
    assert searches[0][-1]["divisor"] == 4
    assert "; divisor 4 as measured" in result.plan.steps[-1].what
    assert result.plan.steps[-1].what.endswith("0 attempts, 1 thread of onnxruntime")


def test_without_a_budget_no_divisor_is_measured(measurements):
    result = lomt.prune(Net(), IMAGES, divisor="auto")
    assert measurements == []
    assert [step.kind for step in result.plan.steps] == ["exact"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"channels": 0.5, "latency_ms": 3.0},
            "Expected just one budget, but got `channels` and `latency_ms`.",
        ),
        ({"latency_ms": 0.0}, "Expected `latency_ms` to be above 0 ms, but got 0.0."),
        ({"latency_ms": float("nan")}, "Expected `latency_ms` to be above 0 ms, but got nan."),
        ({"latency_ms": float("inf")}, "Expected `latency_ms` to be above 0 ms, but got inf."),
        ({"macs": 1.5}, "Expected `macs` to be a fraction above 0 and at most 1, but got 1.5."),
        ({"threads": 0}, "Expected `threads` to be at least 1, but got 0."),
    ],
)
def test_settings_out_of_range(settings, message, searches, measurements):
    with pytest.raises(PruneError) as caught:
        lomt.prune(Net(), IMAGES, **settings)
    assert str(caught.value) == message
    assert searches == measurements == []


def test_a_word_that_is_no_divisor():
    unchecked = inspect.unwrap(lomt.prune)  # as it is without the check of annotations in tests
    with pytest.raises(PruneError) as caught:
        unchecked(Net(), IMAGES, macs=0.5, divisor="fast")
    assert str(caught.value) == "Expected `divisor` to be a number, one by name, or 'auto', but got 'fast'."


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ranking": "globl"}, "Unknown ranking `globl`, did you mean `global`?"),
        ({"importance": "magnitud"}, "Unknown importance `magnitud`, did you mean `magnitude`?"),
        ({"protect": ["z"], "latency_ms": 1.0}, "Unknown layer to protect `z`. Known are a, b, c."),
    ],
)
def test_unknown_names(settings, message, searches):
    with pytest.raises(UnknownNameError) as caught:
        lomt.prune(Net(), IMAGES, **settings)
    assert str(caught.value).startswith(message)


def test_what_is_wrong_with_the_model_is_said_before_anything_is_timed(measurements):
    with pytest.raises(TraceError, match="Expected the model to run on example inputs"):
        lomt.prune(Net(), torch.rand(1, 4, 4, 4), macs=0.5, divisor="auto")
    assert measurements == []


def test_everything_protected():
    with pytest.raises(BudgetError) as caught:
        lomt.prune(Net(), IMAGES, channels=0.5, protect=["a", "b"])
    assert str(caught.value) == (
        "Expected coupled channels that may be pruned, but all 4 are protected: 1 protected as `a`; "
        "1 an input of the network; 1 protected as `b`."
    )


@pytest.mark.slow
def test_a_latency_is_met_as_measured():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 96, 3, padding=1), nn.Conv2d(96, 2, 1)
    )
    result = lomt.prune(model, torch.rand(1, 3, 32, 32), latency_ms=1.0)
    text = result.plan.steps[-1].what
    assert float(text.split("; ")[1].split(" ms measured")[0]) <= 1.0
    assert result.plan.macs_after < result.plan.macs_before
