import json

import pytest
import torch
from torch import nn

from lomt.deploy.layer_latency import fit_layer_latency
from lomt.structure import trace_structure


class Attentive(nn.Module):
    """A convolution, a depthwise one, a product of two features and a linear layer."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.depthwise = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.mix = nn.Conv2d(32, 64, 1)
        self.head = nn.Linear(64, 5)

    def forward(self, images):
        features = self.mix(self.depthwise(self.stem(images)).relu()).relu().flatten(2).transpose(1, 2)
        return self.head((features @ features.transpose(1, 2)).softmax(-1) @ features)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    model, images = Attentive(), torch.rand(1, 3, 8, 8)
    structure = trace_structure(model, images)
    keep = {own.name: torch.arange(own.count) % 2 == 0 for own in structure.prunable}
    return model, images, structure, keep


def by_macs(shapes, threads, seconds):
    """Time in ms of an engine that is bound by arithmetic alone."""
    return [2e-6 * shape.macs for shape in shapes]


def by_bytes(shapes, threads, seconds):
    return [0.01 + 1e-6 * shape.input_bytes + 3e-6 * shape.output_bytes for shape in shapes]


def test_an_engine_bound_by_arithmetic_is_predicted_exactly(network):
    model, images, structure, keep = network
    fitted = fit_layer_latency(model, images, structure, 2e-6 * structure.macs(), timer=by_macs)
    assert fitted.fit_error == pytest.approx(0, abs=1e-9)
    assert fitted.rest_ms == pytest.approx(0, abs=1e-9)
    assert fitted.predict(structure, {}) == pytest.approx(2e-6 * structure.macs())
    assert fitted.predict(structure, keep) == pytest.approx(2e-6 * structure.macs(keep))
    layers = fitted.layer_ms(structure, keep)
    assert layers == pytest.approx({name: 2e-6 * structure.layer_macs(keep)[name] for name in layers})


def test_an_engine_bound_by_memory_is_fitted_too(network):
    model, images, structure, _ = network
    fitted = fit_layer_latency(model, images, structure, 10.0, timer=by_bytes)
    assert fitted.fit_error < 1e-6
    assert min(min(own) for own in fitted.coefficients.values()) >= 0


def test_what_is_beside_the_layers_follows_the_amount_of_data(network):
    model, images, structure, keep = network
    dense_ms = 2e-6 * structure.macs() + 3.0
    fitted = fit_layer_latency(model, images, structure, dense_ms, timer=by_macs)
    assert fitted.rest_ms == pytest.approx(3.0)
    assert fitted.predict(structure, {}) == pytest.approx(dense_ms)
    resolved = structure.resolve(keep)
    dense = sum(call.shape.output_bytes for call in fitted.calls)
    left = sum(call.narrowed(resolved).output_bytes for call in fitted.calls)
    assert left < dense
    assert fitted.predict(structure, keep) == pytest.approx(2e-6 * structure.macs(keep) + 3.0 * left / dense)


def test_layers_that_take_longer_alone_are_scaled_to_the_network(network):
    model, images, structure, keep = network
    dense_ms = 1e-6 * structure.macs()
    fitted = fit_layer_latency(model, images, structure, dense_ms, timer=by_macs)
    assert (fitted.rest_ms, fitted.scale) == (0.0, pytest.approx(0.5))
    assert fitted.predict(structure, {}) == pytest.approx(dense_ms)
    assert fitted.predict(structure, keep) == pytest.approx(1e-6 * structure.macs(keep))


def test_layers_are_timed_at_several_widths_and_images_keep_their_channels(network):
    model, images, structure, _ = network
    asked = []

    def timer(shapes, threads, seconds):
        asked.append((shapes, threads, seconds))
        return by_macs(shapes, threads, seconds)

    fit_layer_latency(model, images, structure, 1.0, threads=2, seconds=7.0, timer=timer)
    ((shapes, threads, seconds),) = asked
    assert (threads, seconds) == (2, 7.0)
    assert [s.out_channels for s in shapes if s.kind == "conv"] == [32, 16, 8]
    assert {s.in_channels for s in shapes if s.kind == "conv"} == {3}
    assert {(s.in_channels, s.groups) for s in shapes if s.kind == "depthwise"} == {
        (32, 32),
        (16, 16),
        (8, 8),
    }
    assert {(s.in_channels, s.out_channels) for s in shapes if s.kind == "linear"} == {
        (64, 5),
        (32, 5),
        (16, 5),
    }


def test_it_tells_how_good_the_fit_is(network):
    model, images, structure, _ = network

    def noisy(shapes, threads, seconds):
        times = by_macs(shapes, threads, seconds)
        return [time * (1.2 if place % 2 else 0.8) for place, time in enumerate(times)]

    fitted = fit_layer_latency(model, images, structure, 1.0, timer=noisy)
    assert 0.01 < fitted.fit_error < 0.3
    assert f"median fit error {fitted.fit_error:.1%}" in str(fitted)
    told = json.loads(json.dumps(fitted.to_dict(), allow_nan=False))
    assert len(told["samples"]) == len(fitted.samples) > 4


def test_a_model_without_layers_takes_what_it_takes():
    model, images = nn.ReLU(), torch.rand(1, 3, 8, 8)
    fitted = fit_layer_latency(model, images, trace_structure(model, images), 2.0, timer=by_macs)
    assert fitted.predict(trace_structure(model, images), {}) == 2.0


def test_a_latency_that_is_not_positive_is_refused(network):
    model, images, structure, _ = network
    with pytest.raises(ValueError, match=r"Expected `dense_ms` to be above 0, but got 0\."):
        fit_layer_latency(model, images, structure, 0.0, timer=by_macs)
