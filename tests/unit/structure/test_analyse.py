from collections import namedtuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from lomt.errors import UnknownNameError
from lomt.structure import trace_structure
from tests.reference.pruning_laws import (
    assert_counts_hold,
    assert_pruned_equals_masked,
    assert_same_function,
    assert_untouched,
    liven,
    pruned,
    random_masks,
    state_of,
)
from tests.reference.random_networks import RandomNetwork, example_images, programs
from tests.reference.slow_macs import count_macs_one_by_one

Pair = namedtuple("Pair", "depth label")
IMAGES = torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randn(2, 16, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


class TwoTasks(nn.Module):
    """A shared stem, two decoders, and a layer that nobody calls and one whose result nobody uses."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.depth = nn.Sequential(nn.Conv2d(8, 6, 1), nn.ReLU(), nn.Conv2d(6, 1, 1))
        self.label = nn.Sequential(nn.Conv2d(8, 4, 1), nn.Flatten(), nn.Linear(64, 5))
        self.never, self.useless = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1)

    def forward(self, images):
        features = self.stem(images)
        self.useless(features)
        return Pair(self.depth(features), self.label(features))


def two_tasks():
    return liven(TwoTasks())


def names(structure):
    return [own.name for own in structure.prunable]


def test_coupled_channels_name_their_slices_in_the_order_of_computation():
    structure = trace_structure(two_tasks(), IMAGES)
    assert names(structure) == ["stem.0", "useless", "depth.0", "label.0"]
    stem = structure.by_name["stem.0"]
    assert (stem.count, stem.producers, stem.mixers, stem.is_exact) == (8, ("stem.0",), (), True)
    assert stem.consumers == ("depth.0", "label.0", "useless")
    roles = {(own.tensor, own.dim): own.role for own in stem.slices}
    assert roles == {
        ("stem.0.weight", 0): "producer",
        ("stem.0.bias", 0): "scale",
        ("stem.1.weight", 0): "scale",
        ("stem.1.bias", 0): "scale",
        ("stem.1.running_mean", 0): "scale",
        ("stem.1.running_var", 0): "scale",
        ("depth.0.weight", 1): "consumer",
        ("label.0.weight", 1): "consumer",
        ("useless.weight", 1): "consumer",
    }


def test_a_flattened_map_gives_each_channel_all_its_positions():
    structure = trace_structure(two_tasks(), IMAGES)
    (reader,) = [own for own in structure.by_name["label.0"].slices if own.role == "consumer"]
    assert reader.tensor == "label.2.weight"
    assert reader.owner.tolist() == [channel for channel in range(4) for _ in range(16)]


def test_parts_are_shared_or_one_outputs_own_or_unused():
    structure = trace_structure(two_tasks(), IMAGES)
    assert structure.outputs == ("depth", "label")
    assert structure.serves["stem.0.weight"] == ("depth", "label")
    assert structure.serves["depth.2.bias"] == ("depth",)
    assert structure.serves["label.2.weight"] == ("label",)
    assert structure.serves["never.weight"] == structure.serves["useless.weight"] == ()
    parts = {name: structure.component(name) for name in names(structure)}
    assert parts == {"stem.0": "shared", "depth.0": "depth", "label.0": "label", "useless": "unused"}
    assert structure.unused_layers == ("never", "useless")


def test_parts_are_those_that_autograd_reaches():
    model = two_tasks()
    structure = trace_structure(model, IMAGES)
    parameters = dict(model.named_parameters())
    for output, values in model(IMAGES)._asdict().items():
        grads = torch.autograd.grad(
            values.sum(), list(parameters.values()), retain_graph=True, allow_unused=True
        )
        reached = {name for name, grad in zip(parameters, grads, strict=True) if grad is not None}
        assert reached == {name for name, served in structure.serves.items() if output in served}


def test_outputs_and_inputs_and_what_no_layer_computes_are_protected():
    structure = trace_structure(two_tasks(), IMAGES)
    reasons = {own.name: own.protected for own in structure.coupled if own.protected}
    assert reasons["label.2"] == "output `label` of the network"
    assert reasons["stem.0/2"] == "an input of the network"
    assert reasons["never"] == "no layer computes it"
    assert "depth.2" not in reasons  # a single channel is none to choose from


def test_counts_are_those_of_a_second_implementation():
    model = two_tasks()
    structure = trace_structure(model, IMAGES)
    assert structure.params() == sum(parameter.numel() for parameter in model.parameters())
    assert structure.macs() == count_macs_one_by_one(model, IMAGES)
    assert structure.layer_macs()["depth.0"] == 2 * 16 * 8 * 6


@pytest.mark.parametrize(
    ("protect", "left"),
    [
        (["stem.0"], ["useless", "depth.0", "label.0"]),
        (["depth"], ["stem.0", "useless", "label.0"]),
        (["*.0"], ["useless"]),
        (["stem", "label", "useless"], ["depth.0"]),
        (["stem.1"], ["useless", "depth.0", "label.0"]),
    ],
)
def test_protected_layers_keep_their_own_channels(protect, left):
    structure = trace_structure(two_tasks(), IMAGES, protect=protect)
    assert names(structure) == left
    reasons = [own.protected for own in structure.coupled]
    assert f"protected as `{protect[0]}`" in reasons


def test_protecting_a_layer_leaves_what_it_reads_prunable():
    assert "stem.0" in names(trace_structure(two_tasks(), IMAGES, protect=["depth"]))


def test_a_protected_name_that_matches_nothing_is_an_error_with_the_nearest():
    with pytest.raises(UnknownNameError, match=r"Unknown layer to protect `stem.9`, did you mean `stem"):
        trace_structure(two_tasks(), IMAGES, protect=["stem.9"])


def test_frozen_parameters_protect_what_they_belong_to():
    model = two_tasks()
    model.stem[1].bias.requires_grad_(False)
    structure = trace_structure(model, IMAGES)
    assert structure.by_name["stem.0"].protected == "`stem.1.bias` is frozen"
    assert names(structure) == ["useless", "depth.0", "label.0"]


def test_tracing_leaves_the_model_alone():
    model = two_tasks()
    model.train()
    model.stem[1].eval()
    before = state_of(model)
    trace_structure(model, IMAGES)
    assert_untouched(model, before)


def test_a_module_called_twice_ties_what_it_reads_and_computes():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 6, 1)
            self.both = nn.Sequential(nn.Conv2d(6, 4, 1), nn.BatchNorm2d(4))
            self.again = self.both
            self.z = nn.Conv2d(8, 2, 1)

        def forward(self, images):
            return self.z(torch.cat([self.both(self.a(images)), self.again(self.b(images))], 1))

    model = liven(Twice())
    structure = trace_structure(model, IMAGES)
    assert {own.name: own.count for own in structure.prunable} == {"a": 6, "both.0": 4}
    assert structure.by_name["a"].producers == ("a", "b")
    assert structure.macs() == count_macs_one_by_one(model, IMAGES)
    keep = random_masks(structure.prunable, torch.Generator().manual_seed(0))
    smaller = assert_pruned_equals_masked(model, IMAGES, structure, keep)
    assert smaller.again is smaller.both
    assert_counts_hold(smaller, IMAGES, structure, keep)


class Window(nn.Module):
    """Attention over all tokens with a table of relative position biases."""

    def __init__(self, is_fused):
        super().__init__()
        self.num_heads, self.is_fused = 4, is_fused
        self.head_dim = 2
        self.scale = 0.7
        self.norm = nn.LayerNorm(8)
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)
        self.table = nn.Parameter(torch.zeros(49, 4))
        self.position = nn.Parameter(torch.zeros(1, 16, 8))
        rows = torch.arange(16)
        across = rows[:, None] % 4 - rows[None] % 4 + 3
        self.register_buffer("index", (rows[:, None] // 4 - rows[None] // 4 + 3) * 7 + across)

    def forward(self, tokens):
        tokens = tokens + self.position
        batch, count, _ = tokens.shape
        qkv = self.qkv(self.norm(tokens)).reshape(batch, count, 3, self.num_heads, self.head_dim)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.table[self.index.flatten()].view(count, count, -1).permute(2, 0, 1)[None]
        if self.is_fused:
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=self.scale)
        else:
            mixed = (query * self.scale @ key.transpose(-2, -1) + bias).softmax(-1) @ value
        return tokens + self.proj(mixed.transpose(1, 2).reshape(batch, count, -1))


@pytest.mark.parametrize("is_fused", [False, True], ids=["plain", "fused"])
def test_attention_loses_heads_and_their_width_and_the_stream(is_fused):
    model = liven(nn.Sequential(nn.Linear(8, 8), Window(is_fused), nn.Linear(8, 2)))
    structure = trace_structure(model, TOKENS)
    counts = {own.name: own.count for own in structure.prunable}
    assert counts == {"0": 8, "1.qkv": 4, "1.qkv/head_dim": 2}
    heads, width = structure.by_name["1.qkv"], structure.by_name["1.qkv/head_dim"]
    assert heads.is_exact
    assert not width.is_exact
    assert ("1.table", 1) in [(own.tensor, own.dim) for own in heads.slices]
    assert structure.by_name["0"].mixers == ("the normalisation `1.norm`",)
    keep = {"1.qkv": torch.tensor([True, False, True, True]), "1.qkv/head_dim": torch.tensor([False, True])}
    smaller = assert_pruned_equals_masked(model, TOKENS, structure, keep)
    assert (smaller[1].num_heads, smaller[1].head_dim, smaller[1].proj.in_features) == (3, 1, 3)
    assert_counts_hold(smaller, TOKENS, structure, keep)
    keep["0"] = torch.arange(8) < 5
    assert_counts_hold(pruned(model, structure, keep), TOKENS, structure, keep)


def build(program, seed=0):
    torch.manual_seed(seed)
    return liven(RandomNetwork(program), seed), example_images(seed)


def is_literal(program, coupled):
    """Whether the code of a random network says that there are two of these: the halves of a shuffle."""
    return coupled.count == 2 and any(step.kind == "shuffle" for step in program)


def assert_random_network_is_pruned_right(program, seed):
    model, images = build(program, seed)
    before = state_of(model)
    structure = trace_structure(model, images)
    free = [own for own in structure.prunable if not is_literal(program, own)]
    keep = random_masks(free, torch.Generator().manual_seed(seed))
    smaller = assert_pruned_equals_masked(model, images, structure, keep)
    assert_counts_hold(smaller, images, structure, keep)
    assert structure.macs(keep) == count_macs_one_by_one(smaller, images)
    assert_untouched(model, before)


@settings(max_examples=15, deadline=None)
@given(programs(4), st.integers(0, 1000))
def test_random_networks_are_pruned_as_if_masked(program, seed):
    assert_random_network_is_pruned_right(program, seed)


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(programs(8), st.integers(0, 10_000))
def test_large_random_networks_are_pruned_as_if_masked(program, seed):
    assert_random_network_is_pruned_right(program, seed)


@settings(max_examples=5, deadline=None)
@given(programs(4))
def test_keeping_everything_changes_nothing(program):
    model, images = build(program)
    structure = trace_structure(model, images)
    keep = {own.name: torch.ones(own.count, dtype=torch.bool) for own in structure.coupled}
    assert structure.resolve(keep).tensors == {}
    assert_same_function(model, pruned(model, structure, keep), images, 0)
