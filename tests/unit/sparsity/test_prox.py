import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lomt.sparsity import adam_group_soft_threshold, group_soft_threshold, group_weight
from tests.reference import prox as reference

# The optimality condition relative to its largest term, |d w|; see tests/reference/prox.py.
MOST_RESIDUAL = 1e-12
EXAMPLES = settings(max_examples=60, deadline=None, derandomize=True)


@st.composite
def problems(draw):
    """A weight of (out, in), denominators and a threshold around the groups' own scale."""
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    out, inputs = rng.integers(1, 9), rng.integers(1, 6)
    scale = 10.0 ** rng.uniform(-8, 8)
    spread = draw(st.sampled_from([0.0, 1.0, 8.0]))
    weight = scale * rng.standard_normal((out, inputs))
    weight[:, rng.random(inputs) < 0.2] = 0
    metric = 10.0 ** (rng.uniform(-8, 8) + spread * rng.uniform(-1, 1, (out, inputs)))
    ratio = draw(st.sampled_from([1e-8, 0.1, 0.9, 1 - 1e-9, 1 + 1e-9, 2.0]))
    tau = ratio * max(reference.norm((metric * weight)[:, 0]), 1e-300)
    return torch.from_numpy(weight), torch.from_numpy(metric), float(tau)


def threshold(weight, metric, tau):
    """Both operators as one function of the metric; None is Euclidean."""
    if metric is None:
        return group_soft_threshold(weight, tau, "in")
    return adam_group_soft_threshold(weight, metric, tau, "in")


def columns(weight, metric, result):
    ones = torch.ones_like(weight)
    for c in range(weight.shape[1]):
        yield (x[:, c].numpy() for x in (weight, ones if metric is None else metric, result))


@EXAMPLES
@given(problems(), st.booleans())
def test_the_result_is_optimal_and_zero_exactly_when_it_should_be(problem, is_euclidean):
    weight, metric, tau = problem
    metric, tau = (None, tau / float(metric[0, 0])) if is_euclidean else (metric, tau)
    result = threshold(weight, metric, tau)
    for w, d, x in columns(weight, metric, result):
        assert reference.residual(x, w, d, tau) <= MOST_RESIDUAL
        length = reference.norm(d * w)
        if abs(length - tau) > 1e-14 * tau:
            assert (not np.any(x)) == (length <= tau)


@EXAMPLES
@given(problems(), st.booleans())
def test_the_result_is_the_slow_one(problem, is_euclidean):
    weight, metric, tau = problem
    metric, tau = (None, tau / float(metric[0, 0])) if is_euclidean else (metric, tau)
    for w, d, x in columns(weight, metric, threshold(weight, metric, tau)):
        slow = reference.euclidean_group(w, tau) if is_euclidean else reference.adam_group(w, d, tau)
        np.testing.assert_allclose(x, slow, rtol=1e-6, atol=1e-9 * reference.norm(w))


@EXAMPLES
@given(problems(), st.booleans(), st.integers(0, 2**32 - 1))
def test_no_other_point_has_a_smaller_objective(problem, is_euclidean, seed):
    weight, metric, tau = problem
    metric, tau = (None, tau / float(metric[0, 0])) if is_euclidean else (metric, tau)
    rng = np.random.default_rng(seed)
    for w, d, x in columns(weight, metric, threshold(weight, metric, tau)):
        least = reference.objective(x, w, d, tau)
        for size in (1e-6, 1e-3, 1.0):
            other = x + size * reference.norm(w) * rng.standard_normal(len(w))
            assert reference.objective(other, w, d, tau) >= least * (1 - 1e-12)
        assert reference.objective(w, w, d, tau) >= least * (1 - 1e-12)


@EXAMPLES
@given(problems(), st.booleans())
def test_a_larger_threshold_shrinks_more_and_none_not_at_all(problem, is_euclidean):
    weight, metric, tau = problem
    metric, tau = (None, tau / float(metric[0, 0])) if is_euclidean else (metric, tau)
    assert torch.equal(threshold(weight, metric, 0.0), weight)
    less, more = threshold(weight, metric, tau), threshold(weight, metric, 1.5 * tau)
    assert (less.abs() <= weight.abs()).all()
    assert (more.abs() <= less.abs() * (1 + 1e-12)).all()
    assert (less * weight >= 0).all()


@EXAMPLES
@given(problems(), st.booleans(), st.integers(0, 2**32 - 1))
def test_two_points_never_move_apart_in_the_operators_metric(problem, is_euclidean, seed):
    weight, metric, tau = problem
    metric, tau = (None, tau / float(metric[0, 0])) if is_euclidean else (metric, tau)
    noise = np.random.default_rng(seed).standard_normal(weight.shape)
    other = weight + float(weight.abs().max()) * torch.from_numpy(noise)
    pairs = zip(
        columns(weight, metric, threshold(weight, metric, tau)),
        columns(other, metric, threshold(other, metric, tau)),
        strict=True,
    )
    for (w, d, x), (v, _, y) in pairs:
        apart = reference.norm(np.sqrt(d) * (w - v))
        assert reference.norm(np.sqrt(d) * (x - y)) <= apart * (1 + 1e-9)


@EXAMPLES
@given(problems(), st.booleans())
def test_input_channels_are_the_output_channels_of_the_transposed_weight(problem, is_euclidean):
    weight, metric, tau = problem
    if is_euclidean:
        tau = tau / float(metric[0, 0])
        turned = group_soft_threshold(weight.T.contiguous(), tau, "out").T
    else:
        turned = adam_group_soft_threshold(weight.T.contiguous(), metric.T.contiguous(), tau, "out").T
    straight = threshold(weight, None if is_euclidean else metric, tau)
    torch.testing.assert_close(turned, straight, rtol=1e-12, atol=0)


@pytest.mark.parametrize("axis", ["in", "out"])
@pytest.mark.parametrize("shape, conv_groups", [((6, 4, 3, 3), 1), ((6, 2, 3, 3), 2), ((4, 1, 3, 3), 4)])
def test_groups_of_a_convolution_are_shrunk_one_by_one(shape, conv_groups, axis):
    torch.manual_seed(0)
    weight, metric = torch.randn(shape, dtype=torch.float64), torch.rand(shape, dtype=torch.float64) + 0.1
    flat, flat_metric = weight.flatten().numpy(), metric.flatten().numpy()
    euclidean, adam = np.zeros_like(flat), np.zeros_like(flat)
    for places in reference.groups_of(weight, axis, conv_groups):
        euclidean[places] = reference.euclidean_group(flat[places], 2.5)
        adam[places] = reference.adam_group(flat[places], flat_metric[places], 1.5)
    assert np.count_nonzero(euclidean) > 0
    ours = group_soft_threshold(weight, 2.5, axis, conv_groups)
    np.testing.assert_allclose(ours.flatten().numpy(), euclidean, rtol=1e-12, atol=1e-15)
    ours = adam_group_soft_threshold(weight, metric, 1.5, axis, conv_groups)
    np.testing.assert_allclose(ours.flatten().numpy(), adam, rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("scale", [1e-180, 1e-8, 1.0, 1e8, 1e180])
def test_a_norm_equal_to_the_threshold_means_zero_at_any_scale(scale):
    exact = 2.0 ** round(math.log2(scale))
    weight = torch.tensor([[3.0], [4.0]], dtype=torch.float64) * exact
    ones = torch.ones_like(weight)
    just_below = math.nextafter(5.0, 0) * exact
    for shrink in (
        lambda tau: group_soft_threshold(weight, tau, "in"),
        lambda tau: adam_group_soft_threshold(weight, ones, tau, "in"),
    ):
        assert not shrink(5.0 * exact).any()
        assert shrink(just_below).all()
        torch.testing.assert_close(shrink(2.5 * exact), weight / 2, rtol=1e-15, atol=0)


def test_in_a_uniform_metric_adams_step_is_the_euclidean_one():
    torch.manual_seed(0)
    weight = torch.randn(8, 5, 3, 3, dtype=torch.float64)
    ours = adam_group_soft_threshold(weight, torch.full_like(weight, 1e-5), 4e-5, "in")
    torch.testing.assert_close(ours, group_soft_threshold(weight, 4.0, "in"), rtol=1e-13, atol=0)


def test_one_threshold_a_group():
    weight = torch.ones(4, 3, 1, 1)
    result = group_soft_threshold(weight, torch.tensor([0.0, 1.0, 2.0]), "in")
    assert result.sum(dim=(0, 2, 3)).tolist() == [4.0, 2.0, 0.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_short_floats_are_computed_in_longer_ones(dtype):
    torch.manual_seed(0)
    weight = torch.randn(512, 3).to(dtype)
    exact = group_soft_threshold(weight.double(), 11.0, "in")
    ours = group_soft_threshold(weight, 11.0, "in")
    assert ours.dtype == dtype
    torch.testing.assert_close(ours.double(), exact, rtol=2 * torch.finfo(dtype).eps, atol=0)


def test_gradients_reach_the_weight_and_the_threshold():
    torch.manual_seed(0)
    weight = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    tau = torch.tensor([0.1, 0.5, 100.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w, t: group_soft_threshold(w, t, "in"), (weight, tau))


def test_a_group_of_zeros_has_a_zero_gradient():
    weight = torch.zeros(4, 3, requires_grad=True)
    group_soft_threshold(weight, 0.1, "in").sum().backward()
    assert torch.equal(weight.grad, torch.zeros(4, 3))


def test_the_weight_of_a_group_is_the_root_of_its_size():
    assert group_weight(9) == 3.0


@pytest.mark.parametrize("tau", [-0.1, math.nan])
def test_a_negative_threshold_is_refused(tau):
    weight = torch.ones(2, 2)
    with pytest.raises(ValueError, match=f"^Expected `tau` to be at least 0, but got {tau}.$"):
        group_soft_threshold(weight, tau, "in")
    with pytest.raises(ValueError, match=f"^Expected `tau` to be at least 0, but got {tau}.$"):
        adam_group_soft_threshold(weight, weight, tau, "in")
