import pytest
import torch

from lomt.grouping.projection import PROJECTIONS

SIZES = (7, 30, 1)


@pytest.fixture(params=PROJECTIONS)
def make(request):
    return PROJECTIONS[request.param]


def test_lift_is_the_transpose(make):
    projection = make(SIZES, 16, seed=3)
    gradients = [torch.randn(2, size) for size in SIZES]
    w = torch.randn(16)

    inside = projection.project(gradients) @ w
    outside = sum(g @ piece for g, piece in zip(gradients, projection.lift(w), strict=True))

    assert torch.allclose(inside, outside, atol=1e-5)


def test_inner_products_are_kept_on_average(make):
    x, y = torch.randn(2, 40)
    found = []
    for seed in range(400):
        a, b = make((40,), 20, seed).project([torch.stack([x, y])])
        found.append(float(a @ b))
    error = torch.tensor(found).std() / 20

    assert abs(sum(found) / 400 - float(x @ y)) < 4 * float(error)


def test_none_stands_for_zeros_and_blocks_of_a_parameter_differ(make, monkeypatch):
    monkeypatch.setattr(make, "block_entries", property(lambda self: 10))
    projection = make(SIZES, 8)
    one = torch.randn(1, 30)

    assert torch.equal(
        projection.project([None, one, None]), projection.project([torch.zeros(1, 7), one, torch.zeros(1, 1)])
    )
    w = torch.randn(8)
    lifted = projection.lift(w)[1]
    assert not torch.equal(lifted[:10], lifted[10:20])


def test_the_seed_decides(make):
    one = [torch.randn(1, size) for size in SIZES]

    assert torch.equal(make(SIZES, 8, 1).project(one), make(SIZES, 8, 1).project(one))
    assert not torch.equal(make(SIZES, 8, 1).project(one), make(SIZES, 8, 2).project(one))


@pytest.mark.parametrize(
    ("sizes", "dimension", "seed", "message"),
    [
        (SIZES, 0, 0, "`dimension` to be at least 1, but got 0"),
        (SIZES, 1, -1, "`seed` to be at least 0, but got -1"),
        ((), 1, 0, "`sizes` to be at least one number"),
    ],
)
def test_what_does_not_fit_is_named(make, sizes, dimension, seed, message):
    with pytest.raises(ValueError, match=message):
        make(sizes, dimension, seed)


def test_gradients_that_do_not_fit_are_named(make):
    projection = make(SIZES, 4)
    with pytest.raises(ValueError, match="to be 3 tensors, not all of them None, but got 3"):
        projection.project([None, None, None])
    with pytest.raises(ValueError, match="gradient 1 to have 30 entries, but got 29"):
        projection.project([None, torch.zeros(1, 29), None])
