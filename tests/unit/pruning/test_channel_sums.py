import pytest
import torch

from lomt.pruning.channel_sums import square_sum_by_position, sum_by_position

SHAPES = [(5,), (3, 4), (4, 3, 2, 2), (900, 300), (2, 300_000)]  # the last two are summed in bunches


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sums_are_those_over_all_other_dimensions(shape):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    for dim in range(len(shape)):
        rows = values.double().movedim(dim, 0).reshape(shape[dim], -1)
        torch.testing.assert_close(
            square_sum_by_position(values, dim), rows.square().sum(1), rtol=1e-5, atol=0
        )
        torch.testing.assert_close(sum_by_position(values, dim), rows.sum(1), rtol=1e-4, atol=1e-3)


def test_a_layout_that_is_not_contiguous_is_summed_as_well():
    values = torch.arange(24.0).reshape(2, 3, 4).permute(2, 0, 1)
    assert square_sum_by_position(values, 1).tolist() == [506.0, 3818.0]
    assert sum_by_position(values, 1).tolist() == [66.0, 210.0]
