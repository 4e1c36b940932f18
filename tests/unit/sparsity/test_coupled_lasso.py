import copy

import pytest
import torch
from torch.optim import SGD, AdamW

from lomt.sparsity import CoupledGroupLasso, adam_group_soft_threshold
from lomt.sparsity.coupled_lasso import group_levels
from tests.reference import coupled_prox as reference
from tests.unit.sparsity.coupled_networks import branched, grouped, train


def stepped(model, optimizer=None):
    """Give every parameter a gradient and Adam its moments."""
    optimizer = optimizer or AdamW(model.parameters(), lr=0.01)
    train(model, optimizer, range(3))
    return optimizer


@pytest.mark.parametrize("lambda_", [1.0, 5.0, 12.0, 60.0])
def test_the_euclidean_step_shrinks_whole_coupled_groups(lambda_):
    model = branched()
    optimizer = stepped(model)
    structure, groups = grouped(model)
    expected = copy.deepcopy(model)
    reference.shrink(structure, expected, 0.01 * lambda_)
    CoupledGroupLasso(groups, lambda_).step(optimizer)

    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, dict(expected.named_parameters())[name])


@pytest.mark.parametrize("is_warm", [False, True])
@pytest.mark.parametrize("lambda_", [1e-3, 0.02, 0.1])
def test_the_step_in_adams_metric_is_that_of_each_group_alone(lambda_, is_warm):
    model = branched()
    optimizer = stepped(model)
    structure, groups = grouped(model)
    lasso = CoupledGroupLasso(groups, lambda_, metric="adam")
    if is_warm:
        lasso.step(optimizer)
        train(model, optimizer, [7])
    metric = {
        id(p): (optimizer.state[p]["exp_avg_sq"] / (1 - 0.999 ** float(optimizer.state[p]["step"]))).sqrt()
        + 1e-8
        for p in model.parameters()
    }
    expected = []
    for _, _, slices in reference.channels(structure, model):
        w, d = (
            reference.entries(slices),
            reference.entries([(metric[id(p)], dim, at) for p, dim, at in slices]),
        )
        tau = 0.01 * lambda_ * len(w) ** 0.5
        expected.append(adam_group_soft_threshold(w[:, None], d[:, None], tau, "in")[:, 0])
    lasso.step(optimizer)

    for (_, _, slices), own in zip(reference.channels(structure, model), expected, strict=True):
        torch.testing.assert_close(reference.entries(slices), own, rtol=2e-5, atol=1e-8)
    if lambda_ == 0.02:
        assert 0 < int(groups.zeros().sum()) < groups.count


@pytest.mark.parametrize("strength", [0.02, 0.06, 0.12])
def test_nested_groups_step_to_the_minimum(strength):
    model = branched().double()
    optimizer = stepped(model, SGD(model.parameters(), lr=1.0))
    structure, groups = grouped(model)
    found = [(name, slices) for name, _, slices in reference.channels(structure, model) if name == "a"]
    before = torch.cat([reference.entries(slices) for _, slices in found])
    CoupledGroupLasso(groups, strength, branch_weight=1.5).step(optimizer)
    after = torch.cat([reference.entries(slices) for _, slices in found])
    size = len(before) // len(found)
    nested = [torch.arange(len(before))] + [torch.arange(i, i + size) for i in range(0, len(before), size)]

    def objective(x):
        inner = reference.nested_objective(x, before, nested[1:], strength)
        return inner + 1.5 * strength * len(x) ** 0.5 * x.norm()

    generator = torch.Generator().manual_seed(0)
    for scale in (1e-1, 1e-2, 1e-3, 1e-4):
        for _ in range(50):
            other = after + scale * torch.randn(len(after), generator=generator, dtype=torch.float64)
            assert objective(after) <= objective(other) + 1e-12
    assert objective(after) < objective(before)
    assert objective(after) <= objective(torch.zeros_like(after))


def test_a_branch_dies_as_a_whole_and_the_stream_lives():
    model = branched()
    optimizer = stepped(model, SGD(model.parameters(), lr=0.1))
    _, groups = grouped(model)
    CoupledGroupLasso(groups, 0.4, branch_weight=5.0).step(optimizer)

    assert bool((model.b.weight == 0).all())
    assert not bool((model.a.weight == 0).all())


def test_penalty_counts_groups_and_branches():
    model = branched()
    structure, groups = grouped(model)
    norms = {}
    for name, _, slices in reference.channels(structure, model):
        values = reference.entries(slices)
        norms.setdefault(name, []).append(len(values) ** 0.5 * values.norm())
    inner = sum(sum(own) for own in norms.values())
    outer = model.b.weight.detach().norm() * model.b.weight.numel() ** 0.5

    assert float(CoupledGroupLasso(groups, 0.3).penalty()) == pytest.approx(0.3 * float(inner))
    whole = CoupledGroupLasso(groups, 0.3, branch_weight=2.0)
    assert float(whole.penalty()) == pytest.approx(0.3 * float(inner + 2 * outer))


@pytest.mark.parametrize("metric", ["euclidean", "adam"])
def test_levels_are_the_strengths_at_which_groups_go(metric):
    model = branched()
    optimizer = stepped(model)
    _, groups = grouped(model)
    levels = group_levels(groups, optimizer, metric)
    middle = float(levels.sort().values[6:8].mean())
    CoupledGroupLasso(groups, middle / 0.01, metric=metric).step(optimizer)

    assert torch.equal(groups.zeros(), levels < middle)


@pytest.mark.parametrize("metric", ["euclidean", "adam"])
def test_groups_without_gradient_and_spared_ones_are_left_alone(metric):
    model = branched()
    optimizer = stepped(model)
    _, groups = grouped(model)
    lasso = CoupledGroupLasso(groups, 100.0, metric=metric)
    spared = torch.zeros(groups.count, dtype=torch.bool)
    spared[9] = True
    lasso.restrict(spared, torch.zeros_like(spared))
    model.head.weight.grad = None
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    lasso.step(optimizer)

    assert torch.equal(model.a.weight, before["a.weight"]) and torch.equal(
        model.head.weight, before["head.weight"]
    )
    assert torch.equal(model.b.weight[:, 3], before["b.weight"][:, 3])
    assert int((~groups.zeros()).sum()) == 6 + 1


@pytest.mark.parametrize("metric", ["euclidean", "adam"])
def test_a_resumed_lasso_goes_on_to_the_last_bit(metric):
    model = branched()
    optimizer = stepped(model)
    _, groups = grouped(model)
    lasso = CoupledGroupLasso(groups, 0.02, metric=metric)
    lasso.attach(optimizer)
    train(model, optimizer, range(3, 6))
    twin = copy.deepcopy(model)
    twin_optimizer = AdamW(twin.parameters(), lr=0.01)
    twin_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    resumed = CoupledGroupLasso(grouped(twin)[1], 0.0, metric=metric)
    resumed.load_state_dict(copy.deepcopy(lasso.state_dict()))
    resumed.attach(twin_optimizer)
    for each, own in ((model, optimizer), (twin, twin_optimizer)):
        train(each, own, range(6, 9))

    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_bad_input_is_refused():
    model = branched()
    _, groups = grouped(model)
    with pytest.raises(ValueError, match="^Expected `lambda_` to be finite and at least 0, but got -1"):
        CoupledGroupLasso(groups, -1.0)
    with pytest.raises(ValueError, match="^Expected `branch_weight` to be finite and at least 0, but got -1"):
        CoupledGroupLasso(groups, 1.0, branch_weight=-1.0)
    with pytest.raises(ValueError, match="^Expected `branch_weight` to be 0 in metric `adam`, but got 1.0"):
        CoupledGroupLasso(groups, 1.0, metric="adam", branch_weight=1.0)
    state = CoupledGroupLasso(groups, 1.0).state_dict()
    with pytest.raises(
        ValueError, match="^Expected `state` to be of metric `adam`, but got one of `euclidean`"
    ):
        CoupledGroupLasso(groups, 1.0, metric="adam").load_state_dict(state)
    with pytest.raises(ValueError, match="^Expected `state` to be of 20 groups, but got one of 14"):
        CoupledGroupLasso(grouped(model, is_coupled=False)[1], 1.0).load_state_dict(state)
    with pytest.raises(TypeError, match="^Expected `optimizer` to be Adam or AdamW"):
        CoupledGroupLasso(groups, 1.0, metric="adam").attach(SGD(model.parameters(), lr=0.1))


def test_one_channel_needs_one_learning_rate():
    model = branched()
    optimizer = SGD(
        [
            {"params": [*model.stem.parameters(), *model.a.parameters(), *model.b.parameters()]},
            {"params": model.head.parameters(), "lr": 0.5},
        ],
        lr=0.1,
    )
    stepped(model, optimizer)
    with pytest.raises(
        ValueError, match="^Expected all consumers of a channel to have one learning rate, but got 0.1 for `a"
    ):
        CoupledGroupLasso(grouped(model)[1], 1.0).step(optimizer)


def test_uncoupled_groups_may_have_rates_of_their_own():
    model = branched()
    optimizer = SGD(
        [
            {"params": [*model.stem.parameters(), *model.a.parameters(), *model.b.parameters()]},
            {"params": model.head.parameters(), "lr": 0.0},
        ],
        lr=0.1,
    )
    stepped(model, optimizer)
    head = model.head.weight.detach().clone()
    CoupledGroupLasso(grouped(model, is_coupled=False)[1], 100.0).step(optimizer)

    assert torch.equal(model.head.weight, head)
    assert not model.a.weight.any() and not model.b.weight.any()
