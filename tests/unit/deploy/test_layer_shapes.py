import pytest
import torch
from torch import nn

from lomt.deploy.layer_shapes import LayerShape, layer_calls
from lomt.structure import trace_structure

DEPTHWISE = LayerShape("conv", 8, 8, (8, 8), (8, 8), (3, 3), (1, 1), (1, 1), groups=8)
STRIDED = LayerShape("conv", 8, 16, (9, 9), (5, 5), (3, 3), (2, 2), (1, 1))
GROUPED = LayerShape("conv", 8, 16, (8, 8), (8, 8), (1, 1), (1, 1), (1, 1), groups=2)
TRANSPOSED = LayerShape("transposed", 16, 4, (5, 5), (10, 10), (2, 2), (2, 2), (1, 1))
LINEAR = LayerShape("linear", 4, 6, (5,), (5,))


class EveryKind(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.down = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(16, 4, 2, stride=2)
        self.head = nn.Linear(4, 6)

    def forward(self, images):
        features = self.up(self.down(self.depthwise(self.stem(images)).relu()).relu())
        return self.head(features.mean((2, 3)).relu())


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    model, images = EveryKind(), torch.rand(1, 3, 8, 8)
    return model, images, layer_calls(model, images), trace_structure(model, images)


def test_every_run_is_met_in_order_and_the_model_is_left_alone(network):
    model, _, calls, _ = network
    assert [call.layer for call in calls] == ["stem", "depthwise", "down", "up", "head"]
    assert [call.weight for call in calls] == [f"{call.layer}.weight" for call in calls]
    assert [call.shape.kind for call in calls] == ["conv", "depthwise", "conv", "transposed", "linear"]
    assert calls[2].shape.output_size == (4, 4)
    assert calls[3].shape.output_size == (8, 8)
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())


def test_macs_are_those_of_the_structure_dense_and_pruned(network):
    _, _, calls, structure = network
    keep = {own.name: torch.arange(own.count) % 2 == 0 for own in structure.prunable}
    assert keep
    for masks in ({}, keep):
        resolved = structure.resolve(masks)
        assert {call.layer: call.narrowed(resolved).macs for call in calls} == structure.layer_macs(masks)


def test_half_of_the_channels_of_a_depthwise_layer_are_half_of_its_groups(network):
    _, _, calls, structure = network
    own = next(
        found for found in structure.prunable if "depthwise" in found.producers or "stem" in found.producers
    )
    narrowed = calls[1].narrowed(structure.resolve({own.name: torch.arange(8) < 4}))
    assert (narrowed.in_channels, narrowed.out_channels, narrowed.groups) == (4, 4, 4)
    assert narrowed.kind == "depthwise"


def test_a_shared_or_parametrised_weight_has_the_structure_s_name():
    first = nn.Conv2d(3, 3, 1)
    second = nn.Conv2d(3, 3, 1)
    second.weight = first.weight
    third = torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 5, 1))
    calls = layer_calls(nn.Sequential(first, second, third), torch.rand(1, 3, 4, 4))
    assert calls[0].weight == calls[1].weight == "0.weight"
    assert calls[2].weight.startswith("2.parametrizations.weight.original")


@pytest.mark.parametrize(
    ("shape", "macs", "text"),
    [
        (DEPTHWISE, 8 * 9 * 64, "depthwise 3x3, 8 -> 8, 8x8"),
        (STRIDED, 8 * 16 * 9 * 25, "conv 3x3 stride 2x2, 8 -> 16, 9x9"),
        (GROUPED, 8 * 8 * 64, "grouped 1x1 in 2 groups, 8 -> 16, 8x8"),
        (TRANSPOSED, 16 * 4 * 4 * 25, "transposed 2x2 stride 2x2, 16 -> 4, 5x5"),
        (LINEAR, 4 * 6 * 5, "linear, 4 -> 6, 5 rows"),
    ],
    ids=["depthwise", "strided", "grouped", "transposed", "linear"],
)
def test_what_a_layer_costs_and_how_it_is_called(shape, macs, text):
    assert shape.macs == macs
    assert str(shape) == text


def test_bytes_are_those_of_float32():
    assert (STRIDED.input_bytes, STRIDED.output_bytes) == (4 * 8 * 81, 4 * 16 * 25)
    assert (LINEAR.input_bytes, LINEAR.output_bytes) == (4 * 4 * 5, 4 * 6 * 5)


def test_a_shrunk_layer_keeps_its_channels_and_gets_below_the_bound():
    small = STRIDED.shrunk(STRIDED.macs // 3)
    assert small.macs <= STRIDED.macs // 3
    assert (small.in_channels, small.out_channels, small.kernel) == (8, 16, (3, 3))
    assert STRIDED.shrunk(STRIDED.macs) == STRIDED
    assert LINEAR.shrunk(1).input_size == (1,)
