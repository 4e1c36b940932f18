import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lomt.structure import trace_structure
from tests.reference.pruning_laws import assert_pruned_equals_masked, assert_untouched, liven, state_of

TOKENS = torch.randn(2, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


class Heads(nn.Module):
    """Cuts features into heads in a way given, and joins them again."""

    def __init__(self, cut):
        super().__init__()
        self.heads, self.width = 3, 2
        self.sizes = [3, 2]
        self.enter, self.leave = nn.Linear(4, 6), nn.Linear(6, 2)
        self.cut = cut

    def forward(self, tokens):
        return self.leave(self.cut(self, self.enter(tokens)).relu().flatten(-2))


CUTS = {
    "reshape": lambda net, x: x.reshape(2, 5, net.heads, net.width),
    "view": lambda net, x: x.view((2, 5, net.heads, -1)),
    "sizes in a list": lambda net, x: x.reshape(2, 5, *net.sizes),
    "unflatten": lambda net, x: x.unflatten(-1, (net.heads, net.width)),
    "unflatten by name": lambda net, x: x.unflatten(dim=2, sizes=net.sizes),
}


@pytest.mark.parametrize("name", CUTS)
def test_numbers_that_are_sizes_in_a_reshape_change_with_the_channels(name):
    model = liven(Heads(CUTS[name]))
    structure = trace_structure(model, TOKENS)
    counts = {own.count: own.name for own in structure.prunable}
    keep = {counts[3]: torch.tensor([True, False, True]), counts[2]: torch.tensor([False, True])}
    if name == "view":
        del keep[counts[2]]
    smaller = assert_pruned_equals_masked(model, TOKENS, structure, keep)
    if name in ("sizes in a list", "unflatten by name"):
        assert smaller.sizes == [2, 1]
    else:
        assert smaller.heads == 2


class Cuts(nn.Module):
    def __init__(self, cut):
        super().__init__()
        self.left, self.right = 4, 2
        self.sizes = (4, 2)
        self.enter, self.leave = nn.Linear(4, 6), nn.Linear(6, 2)
        self.cut = cut

    def forward(self, tokens):
        left, right = self.cut(self, self.enter(tokens))
        return self.leave(torch.cat([right.relu(), left], -1))


SPLITS = {
    "split": lambda net, x: x.split([net.left, net.right], dim=-1),
    "split by a tuple": lambda net, x: torch.split(x, net.sizes, -1),
    "slices": lambda net, x: (x[..., : net.left], x[..., net.left :]),
    "narrow": lambda net, x: (x.narrow(-1, 0, net.left), x[:, :, net.left :]),
}


@pytest.mark.parametrize("name", SPLITS)
def test_numbers_that_are_sizes_in_a_split_change_with_the_channels(name):
    model = liven(Cuts(SPLITS[name]))
    structure = trace_structure(model, TOKENS)
    assert sorted(own.count for own in structure.prunable) == [2, 4]
    keep = {own.name: torch.arange(own.count) != 1 for own in structure.prunable}
    smaller = assert_pruned_equals_masked(model, TOKENS, structure, keep)
    assert (smaller.sizes == (3, 1)) if name == "split by a tuple" else (smaller.left == 3)


class OwnConv(nn.Module):
    """A grouped convolution whose number of groups equals its padding and stands beside it."""

    def __init__(self):
        super().__init__()
        self.groups, self.padding = 2, 2
        self.enter = nn.Conv1d(5, 8, 1)
        self.weight = nn.Parameter(torch.randn(4, 4, 5))
        self.leave = nn.Conv1d(4, 1, 1)

    def forward(self, tokens):
        features = F.conv1d(self.enter(tokens), self.weight, None, 1, self.padding, 1, self.groups)
        return self.leave(
            F.conv1d(features, torch.ones(4, 1, 1).to(features), padding=self.padding, groups=4)
        )


def test_only_the_groups_of_a_convolution_change_with_them():
    model = liven(OwnConv())
    structure = trace_structure(model, TOKENS)
    assert {tie.attribute for tie in structure.ties if not tie.module.startswith(("enter", "leave"))} == {
        "groups"
    }


class Curious(nn.Module):
    """Keeps what it saw of its own sizes, counts its calls, and changes its lists."""

    def __init__(self, is_broken=False):
        super().__init__()
        self.heads, self.calls, self.seen = 2, 0, []
        self.is_broken = is_broken
        self.shape = (2, 3)
        self.enter, self.leave = nn.Linear(4, 6), nn.Linear(6, 2)
        self.register_buffer("runs", torch.zeros(()))

    def forward(self, tokens):
        self.calls += 1
        self.runs += 1
        self.last = self.heads
        self.seen.append(self.shape)
        features = self.enter(tokens).reshape(2, 5, self.heads, -1)
        if self.is_broken:
            raise RuntimeError("broken")
        return self.leave(features.flatten(-2))


@pytest.mark.parametrize("is_broken", [False, True])
def test_tracing_leaves_nothing_behind_in_the_model(is_broken):
    model = Curious(is_broken).double()
    model.enter.eval()
    before = state_of(model)
    try:
        trace_structure(model, TOKENS)
    except ValueError:
        assert is_broken
    else:
        assert not is_broken
    assert_untouched(model, before)
    assert type(model.heads) is int
    assert [type(entry) for entry in model.shape] == [int, int]
    assert not hasattr(model, "last")


class Halves(nn.Module):
    """Splits into equal parts, whose size is a share of an attribute."""

    def __init__(self):
        super().__init__()
        self.width = 6
        self.enter, self.leave = nn.Linear(4, 6), nn.Linear(3, 2)

    def forward(self, tokens):
        left, right = self.enter(tokens).split(self.width // 2, dim=-1)
        return self.leave(left.relu() - right.sigmoid())


def test_equal_parts_lose_the_same_channels_and_a_share_of_an_attribute_follows():
    model = liven(Halves())
    structure = trace_structure(model, TOKENS)
    (own,) = structure.prunable
    assert own.count == 3
    smaller = assert_pruned_equals_masked(
        model, TOKENS, structure, {own.name: torch.tensor([True, False, True])}
    )
    assert smaller.width == 4


class Twice(nn.Module):
    """One attribute is the size of two dimensions that nothing else ties."""

    def __init__(self):
        super().__init__()
        self.width = 3
        self.enter, self.other, self.leave = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(12, 2)

    def forward(self, tokens):
        parts = [layer(tokens).reshape(2, 5, 2, self.width) for layer in (self.enter, self.other)]
        return self.leave(torch.cat([part.relu().flatten(-2) for part in parts], -1))


def test_one_number_ties_the_dimensions_it_sizes():
    model = liven(Twice())
    structure = trace_structure(model, TOKENS)
    (own,) = [own for own in structure.prunable if own.count == 3]
    assert own.producers == ("enter", "other")
    smaller = assert_pruned_equals_masked(
        model, TOKENS, structure, {own.name: torch.tensor([True, False, True])}
    )
    assert smaller.width == 2


@pytest.mark.parametrize(("scale", "may_go"), [(0.7, True), (None, False)])
def test_the_width_of_heads_stays_where_attention_is_scaled_by_it(scale, may_go):
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.num_heads, self.head_dim = 2, 3
            self.qkv, self.proj = nn.Linear(4, 18), nn.Linear(6, 2)

        def forward(self, tokens):
            query, key, value = (
                self.qkv(tokens)
                .reshape(2, 5, 3, self.num_heads, self.head_dim)
                .permute(2, 0, 3, 1, 4)
                .unbind(0)
            )
            mixed = F.scaled_dot_product_attention(query, key, value, scale=scale)
            return self.proj(mixed.transpose(1, 2).flatten(-2))

    model = liven(Attention())
    structure = trace_structure(model, TOKENS)
    widths = [own for own in structure.coupled if own.name == "qkv/head_dim"]
    assert [own.protected is None for own in widths] == [may_go]
    if not may_go:
        assert "the default scale of the attention" in widths[0].protected
