import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference.nested_prox import nested_residual
from torch import nn

from lomt.sparsity import NestedGroupLasso, group_soft_threshold, nested_soft_threshold


@given(
    seed=st.integers(0, 10**6),
    inner=st.sampled_from([0.0, 0.3, 1.0, 2.5]),
    outer=st.sampled_from([0.0, 0.5, 2.0, 8.0]),
)
def test_result_is_optimal(seed, inner, outer):
    """The optimality conditions hold for every matrix, written out one by one."""
    torch.manual_seed(seed)
    weight = torch.randn(3, 4, 5, dtype=torch.float64) * torch.rand(3, 1, 5, dtype=torch.float64)

    found = nested_soft_threshold(weight, inner, outer)

    for before, after in zip(weight, found, strict=True):
        assert nested_residual(after.numpy(), before.numpy(), inner, outer) < 1e-12


def test_the_other_order_is_not_optimal():
    """The law above tells right from wrong: root first, leaves second misses the optimum."""
    torch.manual_seed(0)
    weight = torch.randn(4, 5, dtype=torch.float64)
    root_first = nested_soft_threshold(nested_soft_threshold(weight[None], 0.0, 1.0), 0.8, 0.0)[0]

    assert nested_residual(root_first.numpy(), weight.numpy(), 0.8, 1.0) > 1e-3


def test_without_the_outer_part_it_is_the_plain_group_lasso():
    torch.manual_seed(0)
    weight = torch.randn(1, 4, 6)

    assert torch.allclose(
        nested_soft_threshold(weight, 1.5, 0.0)[0], group_soft_threshold(weight[0], 1.5, "in")
    )


def test_matrix_dies_as_a_whole_although_channels_would_live():
    weight = torch.full((1, 1, 4), 1.0)

    assert nested_soft_threshold(weight, 0.5, 0.0).count_nonzero() == 4
    assert nested_soft_threshold(weight, 0.5, 1.0).count_nonzero() == 0


@pytest.mark.parametrize("name", ["inner", "outer"])
def test_negative_threshold_is_refused(name):
    with pytest.raises(ValueError, match=f"Expected `{name}` to be at least 0, but got -1.0"):
        nested_soft_threshold(torch.ones(1, 1, 1), **{"inner": 0.0, "outer": 0.0, name: -1.0})


def test_step_uses_learning_rate_lambda_cost_and_group_size():
    weights = {"near": nn.Parameter(torch.ones(2, 3, 4)), "far": nn.Parameter(torch.ones(2, 3, 4))}
    optimizer = torch.optim.SGD(weights.values(), lr=0.1)
    lasso = NestedGroupLasso(weights, {"near": 0.5, "far": 1.0}, lambda_=0.2)
    lasso.attach(optimizer)
    for weight in weights.values():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()

    for name, factor in (("near", 0.5), ("far", 1.0)):
        strength = 0.1 * 0.2 * factor
        expected = nested_soft_threshold(torch.ones(2, 3, 4), strength * 3**0.5, strength * 12**0.5)
        assert torch.allclose(weights[name], expected)
    # One step takes the learning rate times lambda off every entry, twice: inner and outer groups.
    assert weights["far"][0, 0, 0].item() == pytest.approx(1 - 2 * 0.1 * 0.2, abs=1e-3)


def test_in_the_metric_of_adam_thresholds_are_divided_by_what_its_step_was():
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(2, 3, 4))
    plain = nn.Parameter(weight.detach().clone())
    optimizers = [torch.optim.AdamW([own], lr=0.1, betas=(0.9, 0.99)) for own in (weight, plain)]
    lasso = NestedGroupLasso({"layer": weight}, {"layer": 0.5}, lambda_=0.2, metric="adam", growth=1.5)
    lasso.attach(optimizers[0])
    for step in range(3):
        gradient = torch.randn(2, 3, 4) * torch.tensor([0.01, 3.0])[:, None, None]
        weight.grad, plain.grad = gradient.clone(), gradient
        plain.data.copy_(weight)
        for optimizer in optimizers:
            optimizer.step()
        moment = optimizers[0].state[weight]["exp_avg_sq"] / (1 - 0.99 ** (step + 1))
        for row in (0, 1):
            own = 0.1 * 0.2 * 1.5**step * 0.5 / (moment[row].sqrt() + 1e-8).square().mean().sqrt().item()
            expected = nested_soft_threshold(plain[row : row + 1], own * 3**0.5, own * 12**0.5)
            assert torch.allclose(weight[row], expected[0], atol=1e-6)


@pytest.mark.parametrize("scale", [1e-3, 1.0])
def test_groups_live_by_what_they_gain_and_not_by_how_steady_their_gradient_is(scale):
    """The loss's slope at zero against lambda: above it a group grows, below it dies, at every scale of the loss."""
    slopes = torch.tensor([0.5, 4.0])[:, None, None]
    weight = nn.Parameter(torch.full((2, 2, 2), 0.1))
    optimizer = torch.optim.Adam([weight], lr=0.03)
    NestedGroupLasso({"layer": weight}, {"layer": 1.0}, lambda_=scale, metric="adam").attach(optimizer)
    for _ in range(1000):
        optimizer.zero_grad()
        (scale * (0.5 * weight.square() - slopes * weight)).sum().backward()
        optimizer.step()

    assert weight[0].count_nonzero() == 0
    # Where all entries of a group are equal, the inner and the outer part each take lambda from the slope.
    assert torch.allclose(weight[1], torch.full((2, 2), 2.0), atol=0.01)


def test_it_notes_when_each_group_was_last_alive():
    weight = nn.Parameter(torch.tensor([[[1.0]], [[10.0]]]))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    lasso = NestedGroupLasso({"layer": weight}, {"layer": 1.0}, lambda_=0.25)
    lasso.attach(optimizer)
    for _ in range(5):
        weight.grad = torch.zeros_like(weight)
        optimizer.step()

    assert lasso.steps == 5
    assert lasso.last_alive["layer"].tolist() == [1, 5]  # half an entry a step: zero after the second
    assert lasso.alive()["layer"].tolist() == [0.0, 1.0]


def test_weight_outside_the_optimizer_is_named():
    lasso = NestedGroupLasso({"layer": nn.Parameter(torch.ones(1, 1, 1))}, {"layer": 1.0}, lambda_=1.0)
    with pytest.raises(
        ValueError, match="to hold every parameter of the groups, but got one without `layer`"
    ):
        lasso.attach(torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0))


def test_the_proximal_step_minimises_its_penalty():
    torch.manual_seed(0)
    start = torch.randn(2, 3, 4, dtype=torch.float64)
    weight = nn.Parameter(start.clone())
    lasso = NestedGroupLasso({"layer": weight}, {"layer": 0.7}, lambda_=0.3)

    def objective(values):
        weight.data.copy_(values)
        return 0.5 * (values - start).square().sum() + 0.1 * lasso.penalty()

    strength = 0.1 * 0.3 * 0.7
    best = nested_soft_threshold(start, strength * 3**0.5, strength * 12**0.5)
    least = objective(best)
    for _ in range(50):
        assert objective(best + 1e-3 * torch.randn_like(best)) > least


def test_state_is_taken_over():
    weight = nn.Parameter(torch.ones(2, 3, 4))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    lasso = NestedGroupLasso({"layer": weight}, {"layer": 1.0}, lambda_=0.2)
    lasso.step(optimizer)
    other = NestedGroupLasso({"layer": weight}, {"layer": 1.0}, lambda_=0.1)
    other.load_state_dict(lasso.state_dict())
    assert (other.lambda_, other.steps) == (0.2, 1)
    assert other.last_alive["layer"].tolist() == [1, 1]


def test_nothing_to_shrink_is_refused():
    with pytest.raises(ValueError, match="`weights` to name at least one parameter"):
        NestedGroupLasso({}, {}, lambda_=1.0)


def test_negative_strength_is_refused():
    with pytest.raises(ValueError, match="`lambda_` to be finite and at least 0, but got -1"):
        NestedGroupLasso({"layer": nn.Parameter(torch.ones(1, 1, 1))}, {"layer": 1.0}, lambda_=-1)
