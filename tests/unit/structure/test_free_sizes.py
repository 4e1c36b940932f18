import pytest
import torch
from torch import nn

from lomt.errors import ArtifactError
from lomt.structure import FreeSize, free_sizes, source_checksum, trace_structure
from tests.reference.pruning_laws import assert_pruned_equals_masked, liven, random_masks

TOKENS = torch.randn(2, 5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
OFFSET = 1.0


class Attention(nn.Module):
    """As in many vision transformers: the width of the input is written into the last reshape."""

    def __init__(self, width=8, heads=4):
        super().__init__()
        self.num_heads, self.head_dim = heads, width // heads
        self.scale = self.head_dim**-0.5
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x, shift=OFFSET):
        B, N, C = x.shape
        qkv = self.qkv(x).reshape(B, N, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        attention = (q * self.scale @ k.transpose(-2, -1)).softmax(-1)
        x = (
            (attention @ v)
            .transpose(1, 2)
            .reshape(
                B,
                N,
                C,
            )
        )
        return self.proj(x) * shift


def block():
    return liven(nn.Sequential(nn.Linear(8, 8), Attention(), nn.Linear(8, 2)))


def decorated(function):
    return function


class Odd(Attention):
    @decorated
    def forward(self, x):
        return x


def test_a_written_size_is_found_and_left_free_when_heads_go():
    model = block()
    structure = trace_structure(model, TOKENS)
    assert [(own.module, own.function) for own in structure.written] == [("1", "forward")]
    structure = structure.freeing(["1"])
    heads = next(own for own in structure.prunable if own.count == 4)
    keep = {heads.name: torch.tensor([True, False, True, True])}
    ((path, function, calls),) = structure.resolve(keep).freed
    assert (path, function, [(call.dim, call.count) for call in calls]) == ("1", "forward", [(2, 3)])
    smaller = assert_pruned_equals_masked(model, TOKENS, structure, keep)
    assert smaller[1].num_heads == 3
    assert smaller[1].proj.in_features == 6


def test_a_method_is_left_alone_where_its_channels_stay():
    structure = trace_structure(block(), TOKENS).freeing(["1"])
    assert structure.resolve({}).freed == ()


def test_the_new_method_is_this_modules_alone_and_keeps_names_and_defaults():
    model, other = Attention(), Attention()
    line = next(own.line for own in trace_structure(model, TOKENS.float()).written)
    free_sizes(model, "forward", [FreeSize(line, 2, 3)], source_checksum(model, "forward"))
    assert "forward" in vars(model)
    assert "forward" not in vars(other)
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(model(TOKENS.float()), other(TOKENS.float()), rtol=0, atol=0)
    torch.testing.assert_close(model(TOKENS.float(), 2.0), 2 * other(TOKENS.float()))


def test_a_model_with_a_freed_method_is_cut_again():
    model = block()
    structure = trace_structure(model, TOKENS).freeing(["1"])
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        heads = next(own for own in structure.prunable if own.name.startswith("1.qkv") and own.count > 2)
        keep = random_masks([heads], generator, 0.7)
        keep[heads.name][0] = False
        keep[heads.name][1:] = True
        model = assert_pruned_equals_masked(model, TOKENS, structure, keep)
        structure = trace_structure(model, TOKENS).freeing(["1"])
    assert model[1].num_heads == 2


def test_another_source_is_an_error():
    expected = (
        "Expected `Attention.forward` as it was when the model was pruned, but its source is another. "
        "Install the version of its package that was used then."
    )
    with pytest.raises(ArtifactError, match=expected):
        free_sizes(Attention(), "forward", [FreeSize(0, 2, 3)], "0" * 64)


def test_a_call_that_is_not_there_is_an_error():
    model = Attention()
    with pytest.raises(
        ArtifactError, match=r"Expected one reshape to 3 dimensions in line 1 of `Attention.forward`"
    ):
        free_sizes(model, "forward", [FreeSize(1, 2, 3)], source_checksum(model, "forward"))


def test_methods_that_cannot_be_written_anew_have_no_checksum():
    def closed(scale):
        class Closed(nn.Module):
            def forward(self, x):
                return x * scale

        return Closed()

    replaced = Attention()
    replaced.forward = lambda x: x
    assert source_checksum(Attention(), "forward") is not None
    assert source_checksum(Odd(), "forward") is None
    assert source_checksum(closed(2), "forward") is None
    assert source_checksum(replaced, "forward") is None
    assert source_checksum(Attention(), "missing") is None


class Reduced(nn.Module):
    """As in pyramid transformers: the number of tokens is left free, so the width has to be written out anew."""

    def __init__(self, width=8, heads=4):
        super().__init__()
        self.num_heads, self.scale = heads, 0.5
        self.q, self.kv, self.proj = (
            nn.Linear(width, width),
            nn.Linear(width, 2 * width),
            nn.Linear(width, width),
        )

    def forward(self, x):
        B, N, C = x.shape
        q = self.q(x).reshape(B, N, self.num_heads, C // self.num_heads).transpose(1, 2)
        kv = self.kv(x).reshape(B, -1, 2, self.num_heads, C // self.num_heads).permute(2, 0, 3, 1, 4)
        k, v = kv.unbind(0)
        attention = (q * self.scale @ k.transpose(-2, -1)).softmax(-1)
        return self.proj((attention @ v).transpose(1, 2).reshape(B, N, C))


def test_beside_a_free_size_the_new_number_is_written():
    model = liven(nn.Sequential(nn.Linear(8, 8), Reduced(), nn.Linear(8, 2)))
    structure = trace_structure(model, TOKENS).freeing(["1"])
    heads = next(own for own in structure.prunable if own.count == 4)
    keep = {heads.name: torch.tensor([True, False, True, True])}
    ((_, _, calls),) = structure.resolve(keep).freed
    assert {(call.count, call.size) for call in calls} == {(4, None), (5, 2), (3, None)}
    assert_pruned_equals_masked(model, TOKENS, structure, keep)


def test_a_written_number_is_written_again_at_the_next_cut():
    model = liven(nn.Sequential(nn.Linear(8, 8), Reduced(heads=2), nn.Linear(8, 2)))
    for left in (3, 2):
        structure = trace_structure(model, TOKENS).freeing(["1"])
        widths = next(own for own in structure.prunable if own.count == left + 1 and own.mixers)
        mask = torch.arange(left + 1) < left
        model = assert_pruned_equals_masked(model, TOKENS, structure, {widths.name: mask})
    assert model[1].q.out_features == 4


def test_starred_sizes_are_not_written():
    class Starred(nn.Linear):
        def forward(self, x):
            B, N, C = x.shape
            return nn.functional.linear(x, self.weight, self.bias).reshape(B, C, *(N,))

    assert source_checksum(Starred(8, 8), "forward") is not None
    structure = trace_structure(nn.Sequential(nn.Linear(8, 8), Starred(8, 8)), TOKENS.float())
    assert structure.written == ()
