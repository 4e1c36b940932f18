import pytest
import torch

from lomt.sparsity import rows as module
from lomt.sparsity.rows import Rows, Scratch
from lomt.structure import LayerGroups, squared_norms

# shape, conv_groups, number of pieces of at most 100 weights
LAYERS = {
    "3x3": ((12, 7, 3, 3), 1, 12),
    "1x1": ((40, 7, 1, 1), 1, 3),
    "grouped": ((12, 3, 3, 3), 2, 1),
    "depthwise": ((12, 1, 3, 3), 12, 1),
}


@pytest.fixture(params=LAYERS)
def layer(request, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", 100)
    shape, conv_groups, pieces = LAYERS[request.param]
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    count = shape[1] * conv_groups
    return weight, LayerGroups("layer", "in", count, weight.numel() // count, conv_groups), pieces


def test_pieces_hold_every_weight_once(layer):
    weight, groups, count = layer
    rows = Rows(weight, None, groups, Scratch(), 0)
    assert len(rows.pieces) == count
    for piece in rows.pieces:
        piece.weight.add_(1)
        assert {part.shape for part in piece} == {piece.weight.shape}
    torch.testing.assert_close(
        weight, torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)) + 1
    )


def test_vectors_sum_over_rows_and_multiply_them(layer):
    weight, groups, _ = layer
    rows = Rows(weight, None, groups, Scratch(), 0)
    vector = rows.vector(torch.zeros(groups.count))
    for piece, sums in zip(rows.pieces, vector.sums, strict=True):
        torch.sum(piece.weight.square(), dim=1, out=sums)
    vector.collect()
    expected = squared_norms(weight, "in", groups.conv_groups)
    torch.testing.assert_close(vector.values.flatten(), expected)
    vector.values.rsqrt_()
    for piece in rows.pieces:
        piece.weight.mul_(vector.row())
    torch.testing.assert_close(squared_norms(weight, "in", groups.conv_groups), torch.ones(groups.count))


@pytest.mark.parametrize("kind", ["short", "scattered", "channels last"])
def test_unusual_weights_are_worked_on_in_a_copy_or_as_they_are(kind):
    values = torch.randn(4, 3, 2, 2)
    weight = {
        "short": values.to(torch.bfloat16),
        "scattered": torch.empty(2, 2, 3, 4).permute(3, 2, 0, 1).copy_(values),
        "channels last": values.to(memory_format=torch.channels_last),
    }[kind]
    moment = torch.arange(48.0).view(4, 3, 2, 2)
    rows = Rows(weight, moment, LayerGroups("layer", "in", 3, 16), Scratch(), 0)
    rows.load()
    (piece,) = rows.pieces
    assert piece.weight.dtype == torch.float32
    before = weight.clone()
    piece.weight.mul_(piece.moment)
    rows.store()
    torch.testing.assert_close(weight, (before.float() * moment).to(weight.dtype))


def test_scratch_memory_is_shared_and_grows():
    scratch = Scratch()
    like = torch.empty(())
    first = scratch.take("a", 24, like)
    assert scratch.take("a", 15, like).data_ptr() == first.data_ptr()
    assert scratch.take("a", 4, like, start=20).data_ptr() == first[20:].data_ptr()
    assert scratch.take("b", 15, like).data_ptr() != first.data_ptr()
    assert scratch.take("a", 15, like.double()).dtype == torch.float64
    assert scratch.take("a", 81, like).shape == (81,)
    assert first.fill_(1).sum() == 24
