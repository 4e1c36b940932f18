import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lomt.pruning.zero_channels import unread_channels
from lomt.structure import trace_structure
from tests.reference.pruning_laws import (
    assert_same_function,
    assert_untouched,
    liven,
    pruned,
    random_masks,
    state_of,
    zero_consumers,
)
from tests.reference.random_networks import RandomNetwork, example_images, programs

IMAGES = torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def layer(inputs, outputs):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


def chain(*widths):
    layers = [layer(a, b) for a, b in zip((3, *widths), widths, strict=False)]
    return liven(nn.Sequential(*layers, nn.Conv2d(widths[-1], 2, 1)))


def zero(weight, *channels):
    with torch.no_grad():
        weight[:, list(channels)] = 0


def kept(model):
    masks = unread_channels(trace_structure(model, IMAGES), model)
    return {name: mask.nonzero().flatten().tolist() for name, mask in masks.items()}


def assert_exact(model):
    structure = trace_structure(model, IMAGES)
    assert_same_function(model, pruned(model, structure, unread_channels(structure, model)), IMAGES)


def test_a_channel_is_unread_when_its_only_reader_is_zero_there():
    model = chain(4, 5)
    zero(model[1][0].weight, 1, 3)
    assert kept(model) == {"0.0": [0, 2]}
    assert_exact(model)


def test_a_channel_that_any_row_reads_is_read():
    model = chain(4, 5)
    zero(model[1][0].weight, 0, 1, 2, 3)
    with torch.no_grad():
        model[1][0].weight[4, 2] = 1e-30
    assert kept(model) == {"0.0": [2]}


def test_a_zero_filter_beside_a_live_norm_is_no_reason():
    model = chain(4, 5)
    with torch.no_grad():
        model[0][0].weight[2] = 0
    assert kept(model) == {}


def test_all_readers_have_to_be_zero():
    class Fork(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.a, self.b = layer(3, 4), nn.Conv2d(4, 2, 1), nn.Conv2d(4, 2, 1)

        def forward(self, images):
            features = self.stem(images)
            return self.a(features), self.b(features)

    model = liven(Fork())
    zero(model.a.weight, 0, 1)
    zero(model.b.weight, 1, 2)
    assert kept(model) == {"stem.0": [0, 2, 3]}
    assert_exact(model)


def test_what_computes_only_unread_channels_need_not_be_fed():
    model = chain(4, 3, 5)
    zero(model[2][0].weight, 1)  # channel 1 of the second layer is unread
    with torch.no_grad():
        model[1][0].weight[[0, 2], 3] = 0  # and alone reads channel 3 of the first
    assert kept(model) == {"0.0": [0, 1, 2], "1.0": [0, 2]}
    assert_exact(model)


def test_one_channel_stays_where_nobody_reads_any():
    model = chain(4, 5)
    zero(model[1][0].weight, 0, 1, 2, 3)
    assert kept(model) == {"0.0": [0]}
    assert_exact(model)


def test_mixed_and_protected_channels_are_never_among_them():
    model = liven(
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(1, 4), nn.Conv2d(4, 6, 1), nn.Conv2d(6, 2, 1))
    )
    zero(model[2].weight, 1)
    zero(model[3].weight, 2)
    structure = trace_structure(model, IMAGES, protect=["2"])
    assert unread_channels(structure, model) == {}


def test_a_flattened_channel_is_unread_when_all_its_positions_are():
    model = liven(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(64, 2)))
    zero(model[2].weight, *range(16, 32), *range(32, 47))
    assert kept(model) == {"0": [0, 2, 3]}


def test_the_model_is_left_alone():
    model = chain(4, 5)
    zero(model[1][0].weight, 1)
    before = state_of(model)
    unread_channels(trace_structure(model, IMAGES), model)
    assert_untouched(model, before)


def assert_unread_channels_go_without_a_trace(program, seed):
    torch.manual_seed(seed)
    model, images = liven(RandomNetwork(program), seed), example_images(seed)
    structure = trace_structure(model, images)
    exact = [own for own in structure.prunable if own.is_exact and own.count != 2]
    masks = random_masks(exact, torch.Generator().manual_seed(seed))
    zero_consumers(model, structure, {name: ~mask for name, mask in masks.items()})
    found = {name: mask for name, mask in unread_channels(structure, model).items() if name in masks}
    for name, mask in masks.items():
        assert not (found.get(name, mask) & ~mask).any()
    assert_same_function(model, pruned(model, structure, found), images, 1e-9)


@settings(max_examples=10, deadline=None)
@given(programs(4), st.integers(0, 1000))
def test_unread_channels_of_random_networks_go_without_a_trace(program, seed):
    assert_unread_channels_go_without_a_trace(program, seed)


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(programs(8), st.integers(0, 10_000))
def test_unread_channels_of_large_random_networks_go_without_a_trace(program, seed):
    assert_unread_channels_go_without_a_trace(program, seed)
