import json

import pytest
import torch
from torch import nn

from lomt.compress import prune_to_latency
from lomt.deploy import LatencyError
from lomt.deploy.network_gauge import NetworkGauge, PairedTimes
from lomt.pruning.apply import shrink
from lomt.pruning.ranking import BudgetError
from lomt.structure import copy_model, trace_structure

IMAGES = torch.rand(1, 3, 6, 6)
DENSE_MS = 10.0


class Built(nn.Module):
    """Stands for a pruned model; knows the fraction of MACs that it keeps."""

    def __init__(self, macs):
        super().__init__()
        self.macs = macs


class FakeEngine:
    """Takes a fixed time and one that follows the MACs, times a factor for each measurement."""

    def __init__(self, fixed=0.0, power=1.0, factors=()):
        self.fixed, self.power, self.factors = fixed, power, list(factors)
        self.timed = []

    def ms(self, macs):
        return self.fixed + (DENSE_MS - self.fixed) * macs**self.power

    def __call__(self, model):
        factor = self.factors.pop(0) if self.factors else 1.0
        self.timed.append(model.macs)
        return PairedTimes(self.ms(model.macs) * factor, DENSE_MS)

    def dense_ms(self):
        return DENSE_MS


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 96, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(96, 64, 1),
        nn.ReLU(),
        nn.Conv2d(64, 2, 1),
    )
    structure = trace_structure(model, IMAGES)
    return model, structure, {own.name: torch.rand(own.count) for own in structure.prunable}


@pytest.fixture
def search(network):
    model, structure, scores = network
    dense = structure.macs({})

    def run(latency_ms, engine, **settings):
        options = {
            "scores": scores,
            "structure": structure,
            "build": lambda keep: Built(structure.macs(keep) / dense),
            "divisor": 1,
            "gauge": engine,
            "predict": lambda found, keep: DENSE_MS * found.macs(keep) / dense,
        }
        return prune_to_latency(model, IMAGES, latency_ms, **{**options, **settings})

    return run


def test_a_right_formula_needs_one_attempt(search, network):
    _, structure, _ = network
    engine = FakeEngine()
    found = search(5.0, engine)
    assert len(found.history) == len(engine.timed) == 1
    assert 4.75 <= found.measured_ms <= 5.0
    assert found.predicted_ms == pytest.approx(found.measured_ms)
    assert found.measured_ms == pytest.approx(DENSE_MS * structure.macs(found.keep) / structure.macs({}))
    assert (found.target_ms, found.dense_ms) == (5.0, DENSE_MS)


@pytest.mark.parametrize("target", [3.0, 5.0, 8.0])
@pytest.mark.parametrize(
    ("fixed", "power"), [(1.5, 1.0), (0.0, 0.7), (0.0, 1.5)], ids=["fixed", "slow", "fast"]
)
def test_a_wrong_formula_is_corrected_by_measurement(search, fixed, power, target):
    engine = FakeEngine(fixed, power)
    found = search(target, engine)
    assert 0.9 * target <= found.measured_ms <= target
    assert 1 <= len(found.history) <= 4
    assert found.measured_ms == max(own.measured_ms for own in found.history if own.measured_ms <= target)


def test_a_measurement_above_the_target_is_never_returned(search):
    # The same network is 4 % faster or slower from one measurement to the next.
    found = search(5.0, FakeEngine(factors=[1.04, 1.04, 0.96]))
    assert found.measured_ms <= 5.0
    assert [own.measured_ms > 5.0 for own in found.history[:1]] == [True]


def test_a_quick_moment_does_not_pass_for_a_fast_network(search):
    # The first measurement finds everything twice as fast: the ratio to the dense model tells.
    class Quick(FakeEngine):
        def __call__(self, model):
            times = super().__call__(model)
            factor = 0.5 if len(self.timed) == 1 else 1.0
            return PairedTimes(times.model_ms * factor, times.dense_ms * factor)

    engine = Quick(fixed=4.0)
    found = search(6.0, engine)
    assert found.measured_ms <= 6.0
    (own,) = [attempt for attempt in found.history if attempt.measured_ms == found.measured_ms]
    assert engine.ms(own.macs) <= 6.0
    assert found.history[0].measured_ms <= 6.0 < engine.ms(found.history[0].macs)


def test_after_all_but_one_failed_the_smallest_is_tried(search):
    engine = FakeEngine(factors=[1.2])
    found = search(6.0, engine, attempts=2)
    assert len(engine.timed) == 2
    assert engine.timed[-1] == min(engine.timed)
    assert found.measured_ms == engine.ms(engine.timed[-1])


def test_a_model_that_is_fast_enough_is_left_whole(search):
    engine = FakeEngine()
    found = search(DENSE_MS, engine)
    assert (dict(found.keep), found.measured_ms, found.history, engine.timed) == ({}, DENSE_MS, (), [])


def test_what_is_out_of_reach_is_refused_with_what_is_not(search):
    engine = FakeEngine(fixed=4.0)
    text = r"Expected `latency_ms` to be at least 4\.\d+, the shortest measured .* of the MACs\), but got 1\. Lower"
    with pytest.raises(BudgetError, match=text):
        search(1.0, engine)
    assert len(engine.timed) <= 2
    assert engine.timed[-1] == min(engine.timed) < 0.05


def test_least_widths_and_settings_reach_the_choice(search, network):
    _, structure, _ = network
    found = search(
        5.0, FakeEngine(), divisor=16, minimum=0.5, must_stay={"0": torch.ones(64, dtype=torch.bool)}
    )
    assert "0" not in found.keep
    for name, mask in found.keep.items():
        assert int(mask.sum()) % 16 == 0
        assert int(mask.sum()) >= 0.5 * structure.by_name[name].count


@pytest.mark.parametrize("latency_ms", [0, -1.0, float("nan"), float("inf")])
def test_a_latency_that_is_not_positive_is_refused(search, latency_ms):
    with pytest.raises(
        BudgetError, match=r"Expected `latency_ms` to be a positive number of milliseconds, but got"
    ):
        search(latency_ms, FakeEngine())


def test_at_least_one_attempt_is_needed(search):
    with pytest.raises(BudgetError, match=r"Expected `attempts` to be at least 1, but got 0\."):
        search(5.0, FakeEngine(), attempts=0)


def test_what_onnxruntime_cannot_run_is_said(search):
    class Broken(FakeEngine):
        def dense_ms(self):
            raise LatencyError("Expected onnxruntime to run `dense.onnx`, but got: no kernel")

    with pytest.raises(LatencyError, match=r"Expected onnxruntime to run `dense\.onnx`"):
        search(5.0, Broken())


@pytest.mark.slow
def test_onnxruntime_is_met(network):
    """A formula fitted now, exports and measurements; half the time leaves room for a restless machine."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Conv2d(64, 2, 1)
    )
    images = torch.rand(1, 3, 64, 64)
    structure = trace_structure(model, images)
    scores = {own.name: torch.rand(own.count) for own in structure.prunable}

    def build(keep):
        pruned = copy_model(model)
        shrink(pruned, structure.resolve(keep))
        return pruned

    with NetworkGauge(model, images, seconds=1.0) as gauge:
        target = gauge.dense_ms() / 2
    found = prune_to_latency(model, images, target, scores=scores, structure=structure, build=build)
    assert found.measured_ms <= target
    assert structure.macs(found.keep) < structure.macs({})


def test_the_result_can_be_read(search):
    found = search(5.0, FakeEngine())
    assert "dense) for a target of 5 ms, 1 attempt" in str(found)
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert told["measured_ms"] == found.measured_ms
    assert set(told["history"][0]) == {"macs", "predicted_ms", "measured_ms", "dense_ms"}
