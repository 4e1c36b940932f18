import pytest
import torch
from torch import nn

from lomt.pruning.check import attempt, half_of, prove
from lomt.structure import trace_structure
from tests.reference.pruning_laws import assert_untouched, state_of

IMAGES = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1))


def chain(middle, width=8):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, width, 1), middle, nn.Conv2d(width, 2, 1))


class Written(nn.Module):
    """Says in its code how many channels there are."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Conv2d(8, 6, 1), nn.Conv2d(6, 8, 1)

    def forward(self, features):
        assert features.shape[1] == 8, "eight channels\nand nothing else"
        return self.outer(self.inner(features))


class ByCount(nn.Module):
    """Computes with the number of channels, which no operation shows."""

    def forward(self, features):
        return features * features.shape[1]


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.num_heads = 4
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x):
        B, N, C = x.shape
        q, k, v = self.qkv(x).reshape(B, N, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        x = (q * 0.7 @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.proj(x.transpose(1, 2).reshape(B, N, C))


def reasons(model, inputs):
    proven = prove(model, inputs, trace_structure(model, inputs))
    return {own.name: own.protected for own in proven.coupled}


@pytest.mark.parametrize(
    "middle",
    [nn.BatchNorm2d(8), nn.GroupNorm(1, 8), nn.GroupNorm(4, 8), nn.InstanceNorm2d(8), nn.Sigmoid()],
    ids=lambda module: type(module).__name__,
)
def test_what_is_right_passes_also_behind_norms_that_mix(middle):
    model = chain(middle)
    structure = trace_structure(model, IMAGES)
    assert attempt(model, IMAGES, structure, half_of(structure.prunable, 0)).problem is None
    assert [own.protected for own in prove(model, IMAGES, structure).coupled] == [
        own.protected for own in structure.coupled
    ]


def test_what_breaks_the_forward_pass_is_set_aside_and_the_rest_is_not():
    found = reasons(chain(Written()), IMAGES)
    assert found["0"] == "breaks the forward pass: AssertionError: eight channels"
    assert found["1.inner"] is None


def test_what_changes_the_outputs_otherwise_than_zeros_is_set_aside_with_the_size_of_the_change():
    found = reasons(chain(ByCount()), IMAGES)
    assert found["0"].startswith("changes output `output` where it should not (by ")
    assert found["0"].endswith(" relative)")


def test_a_problem_names_the_module_that_broke():
    model = chain(Written())
    structure = trace_structure(model, IMAGES)
    found = attempt(model, IMAGES, structure, {"0": torch.arange(8) < 4}).problem
    assert found.module == "1"
    assert attempt(model, IMAGES, structure, {"1.inner": torch.arange(6) < 4}).problem is None


def test_a_shape_that_changes_is_a_problem():
    class Shape(nn.Module):
        def forward(self, features):
            return features.new_ones(features.shape[1]) * features.mean()

    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1), Shape())
    structure = trace_structure(model, IMAGES)
    keep = {"1": torch.arange(4) < 2}
    found = attempt(model, IMAGES, structure, keep).problem
    assert found.text == "changes the shape of output `output`"


def test_written_sizes_are_left_free_before_anything_is_set_aside():
    model = nn.Sequential(nn.Linear(8, 8), Attention(), nn.Linear(8, 2))
    proven = prove(model, TOKENS, trace_structure(model, TOKENS))
    assert proven.freed == {"1"}
    heads = next(own for own in proven.prunable if own.count == 4)
    assert heads.protected is None


def test_of_many_blocks_of_a_class_the_later_ones_are_set_aside_by_the_first_failures():
    model = nn.Sequential(
        *(nn.Sequential(nn.Conv2d(3, 8, 1), Written(), nn.Conv2d(8, 3, 1)) for _ in range(4))
    )
    found = reasons(model, IMAGES)
    broken = "breaks the forward pass: AssertionError: eight channels"
    assert [found[f"{place}.0"] for place in range(4)] == [broken] * 4
    assert [found[f"{place}.1.inner"] for place in range(4)] == [None] * 4


def test_parameters_at_zero_hide_nothing():
    """Behind a layer scale of zero any cut would pass."""

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.outer = nn.Conv2d(8, 6, 1), nn.Conv2d(6, 8, 1)
            self.scale = nn.Parameter(torch.zeros(8, 1, 1))

        def forward(self, features):
            inner = self.inner(features)
            return features + self.scale * self.outer(inner * inner.shape[1])

    found = reasons(chain(Scaled()), IMAGES)
    assert found["1.inner"].startswith("changes output `output` where it should not")


def test_half_of_the_channels_is_rounded_up_and_drawn_from_a_seed():
    structure = trace_structure(chain(nn.ReLU(), 7), IMAGES)
    first, again, other = (half_of(structure.prunable, seed)["0"] for seed in (0, 0, 1))
    assert int(first.sum()) == 4
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("middle", [nn.BatchNorm2d(8), Written()], ids=["right", "broken"])
def test_proving_leaves_the_model_alone(middle):
    model = chain(middle)
    model[1].train()
    before = state_of(model)
    prove(model, IMAGES, trace_structure(model, IMAGES))
    assert_untouched(model, before)


def test_nothing_prunable_needs_no_proof():
    model = nn.Sequential(nn.Conv2d(3, 2, 1))
    structure = trace_structure(model, IMAGES)
    assert prove(model, IMAGES, structure) is structure
