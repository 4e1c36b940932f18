import copy
import inspect
import math

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW

from lomt.errors import UnknownNameError
from lomt.sparsity import (
    METRICS,
    GroupLasso,
    adam_group_soft_threshold,
    group_soft_threshold,
    group_weight,
    measure_sparsity,
)
from lomt.sparsity.proximal_penalty import ProximalPenalty
from lomt.structure import channel_groups
from tests.reference import prox as reference

LAMBDA = 0.02

OPTIMIZERS = {
    "sgd": lambda p: SGD(p, lr=0.1, momentum=0.9),
    "adam": lambda p: Adam(p, lr=0.01),
    "adamw": lambda p: AdamW(p, lr=0.01, weight_decay=0.1),
    "adamw foreach": lambda p: AdamW(p, lr=0.01, foreach=True),
    "adamw fused": lambda p: AdamW(p, lr=0.01, fused=True),
    "adam amsgrad": lambda p: Adam(p, lr=0.01, amsgrad=True),
    "adam with its rate in a tensor": lambda p: Adam(p, lr=torch.tensor(0.01), foreach=False),
}
ADAMS = [name for name in OPTIMIZERS if name.startswith("adam")]


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False),
        nn.Conv2d(6, 4, 1),
    )


def backward(model, optimizer, seed):
    optimizer.zero_grad()
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    model(images).square().mean().backward()


def train(model, optimizer, seeds):
    for seed in seeds:
        backward(model, optimizer, seed)
        optimizer.step()


def weights(model):
    return {name: weight.detach().clone() for name, weight, _ in channel_groups(model)}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_each_step_is_followed_by_the_euclidean_one(kind):
    model = network()
    plain = copy.deepcopy(model)
    optimizer, plain_optimizer = OPTIMIZERS[kind](model.parameters()), OPTIMIZERS[kind](plain.parameters())
    GroupLasso(channel_groups(model), LAMBDA).attach(optimizer)
    for seed in range(3):
        train(model, optimizer, [seed])
        train(plain, plain_optimizer, [seed])
        for _, weight, groups in channel_groups(plain):
            tau = float(plain_optimizer.param_groups[0]["lr"]) * LAMBDA * group_weight(groups.size)
            with torch.no_grad():
                weight.copy_(group_soft_threshold(weight, tau, "in", groups.conv_groups))
        for name, weight in weights(plain).items():
            torch.testing.assert_close(weights(model)[name], weight, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("is_corrected", [True, False])
@pytest.mark.parametrize("kind", ADAMS)
def test_each_step_is_followed_by_the_one_in_adams_metric(kind, is_corrected):
    model = network()
    plain = copy.deepcopy(model)
    optimizer, plain_optimizer = OPTIMIZERS[kind](model.parameters()), OPTIMIZERS[kind](plain.parameters())
    lasso = GroupLasso(channel_groups(model), 1e-4, metric="adam", bias_correction=is_corrected)
    lasso.attach(optimizer)
    for seed in range(3):
        train(model, optimizer, [seed])
        train(plain, plain_optimizer, [seed])
        for _, weight, groups in channel_groups(plain):
            state = plain_optimizer.state[weight]
            moment = state["max_exp_avg_sq"] if "amsgrad" in kind else state["exp_avg_sq"]
            correction = 1 - 0.999 ** (seed + 1) if is_corrected else 1.0
            denominator = (moment.double() / correction).sqrt() + 1e-8
            tau = 0.01 * 1e-4 * group_weight(groups.size)
            with torch.no_grad():
                shrunk = adam_group_soft_threshold(
                    weight.double(), denominator, tau, "in", groups.conv_groups
                )
                assert float((shrunk - weight).abs().max()) > 0
                weight.copy_(shrunk)
        for name, weight in weights(plain).items():
            torch.testing.assert_close(weights(model)[name], weight, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("metric", "kind"), [("euclidean", "sgd"), ("adam", "adam")])
def test_training_ends_at_the_penalised_optimum(metric, kind):
    # The loss 1/2 |w - target|^2 has the penalised minimum group_soft_threshold(target), whatever the metric.
    torch.manual_seed(0)
    layer = nn.Conv2d(6, 5, 1, bias=False)
    target = torch.randn(5, 6, 1, 1) * torch.tensor([0.05, 1.0, 0.1, 2.0, 0.5, 1.0]).view(1, 6, 1, 1)
    optimizer = {"sgd": SGD(layer.parameters(), lr=0.3), "adam": Adam(layer.parameters(), lr=0.3)}[kind]
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.99)
    GroupLasso(channel_groups(layer), 0.2, metric=metric).attach(optimizer)
    for _ in range(600):
        optimizer.zero_grad()
        (0.5 * (layer.weight - target).square().sum()).backward()
        optimizer.step()
        scheduler.step()
    expected = group_soft_threshold(target, 0.2 * group_weight(5), "in")
    assert measure_sparsity(layer).total.zero_groups == 2
    torch.testing.assert_close(layer.weight.detach(), expected, rtol=0, atol=2e-3)


def test_every_parameter_is_stepped_with_its_own_current_rate():
    model = network()
    first, last = model[0].weight, model[4].weight
    optimizer = SGD([{"params": [first], "lr": 0.5}, {"params": [last], "lr": 0.0}])
    listed = [entry for entry in channel_groups(model) if entry[1] is first or entry[1] is last]
    lasso = GroupLasso(listed, LAMBDA)
    lasso.attach(optimizer)
    first.grad, last.grad = torch.zeros_like(first), torch.zeros_like(last)
    before = first.detach().clone(), last.detach().clone()
    optimizer.step()
    tau = 0.5 * LAMBDA * group_weight(6 * 9)
    torch.testing.assert_close(first.detach(), group_soft_threshold(before[0], tau, "in"))
    assert torch.equal(last, before[1])
    # As a scheduler or a loaded state does: the dictionaries are new ones.
    optimizer.load_state_dict(
        SGD([{"params": [first], "lr": 0.0}, {"params": [last], "lr": 0.5}]).state_dict()
    )
    after = first.detach().clone()
    optimizer.step()
    assert torch.equal(first, after)
    assert not torch.equal(last, before[1])


def test_parameters_without_a_gradient_are_left_alone():
    model = network()
    model[0].weight.requires_grad_(False)
    frozen, free = model[0].weight.clone(), model[4].weight.detach().clone()
    optimizer = SGD(model.parameters(), lr=0.1)
    GroupLasso(channel_groups(model), LAMBDA).attach(optimizer)
    train(model, optimizer, [0])
    assert torch.equal(model[0].weight, frozen)
    assert not torch.equal(model[4].weight, free)


@pytest.mark.parametrize("metric", METRICS)
def test_lambda_can_be_set_and_zero_means_no_step(metric):
    model, plain = network(), network()
    optimizer, plain_optimizer = AdamW(model.parameters()), AdamW(plain.parameters())
    lasso = GroupLasso(channel_groups(model), 0.0, metric=metric)
    lasso.attach(optimizer)
    train(model, optimizer, [0, 1])
    train(plain, plain_optimizer, [0, 1])
    assert all(torch.equal(weights(model)[name], weight) for name, weight in weights(plain).items())
    lasso.lambda_ = 1e6
    train(model, optimizer, [2])
    assert measure_sparsity(model).total.density == 0


def test_no_steps_after_detaching():
    model = network()
    optimizer = SGD(model.parameters(), lr=0.0)
    lasso = GroupLasso(channel_groups(model), LAMBDA)
    lasso.attach(optimizer)
    lasso.detach()
    lasso.detach()
    optimizer.param_groups[0]["lr"] = 1.0
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before = weights(model)
    optimizer.step()
    assert all(torch.equal(weights(model)[name], weight) for name, weight in before.items())
    lasso.attach(optimizer)
    optimizer.step()
    assert not torch.equal(weights(model)["0.weight"], before["0.weight"])


def test_the_step_can_be_taken_by_hand():
    model = network()
    optimizer = SGD(model.parameters(), lr=0.1)
    backward(model, optimizer, 0)
    before = weights(model)
    GroupLasso(channel_groups(model), LAMBDA).step(optimizer)
    tau = 0.1 * LAMBDA * group_weight(6 * 9)
    torch.testing.assert_close(model[0].weight.detach(), group_soft_threshold(before["0.weight"], tau, "in"))


def test_the_penalty_is_the_papers_sum():
    model = network()
    expected = 0.0
    for _, weight, groups in channel_groups(model):
        flat = weight.detach().flatten().numpy()
        for places in reference.groups_of(weight, "in", groups.conv_groups):
            expected += math.sqrt(len(places)) * reference.norm(flat[places])
    penalty = GroupLasso(channel_groups(model), LAMBDA).penalty()
    assert float(penalty) == pytest.approx(LAMBDA * expected, rel=1e-6)
    assert not penalty.requires_grad


@pytest.mark.parametrize("metric", METRICS)
def test_bfloat16_parameters(metric):
    model = network().to(torch.bfloat16)
    optimizer = AdamW(model.parameters(), lr=0.01)
    GroupLasso(channel_groups(model), 1e-4, metric=metric).attach(optimizer)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(4, 3, 8, 8, dtype=torch.bfloat16)).square().mean().backward()
        optimizer.step()
    assert all(
        weight.dtype == torch.bfloat16 and weight.isfinite().all() for weight in weights(model).values()
    )


@pytest.mark.parametrize(
    ("kind", "metric"),
    [
        ("sgd", "euclidean"),
        ("adamw", "euclidean"),
        ("adamw fused", "euclidean"),
        ("adamw", "adam"),
        ("adamw fused", "adam"),
    ],
)
def test_steps_that_a_gradient_scaler_skips_shrink_nothing(kind, metric):
    model = network()
    optimizer = OPTIMIZERS[kind](model.parameters())
    GroupLasso(channel_groups(model), 1e-4, metric=metric).attach(optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    for is_broken in (False, True, False):
        before = weights(model)
        optimizer.zero_grad()
        loss = model(torch.randn(4, 3, 8, 8)).square().mean()
        scaler.scale(loss * (math.inf if is_broken else 1.0)).backward()
        scaler.step(optimizer)
        scaler.update()
        is_same = all(torch.equal(weights(model)[name], weight) for name, weight in before.items())
        assert is_same == is_broken


def test_accelerates_wrapped_optimizer_is_stepped_when_it_really_steps():
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model, plain = network(), network()
    optimizer, plain_optimizer = SGD(model.parameters(), lr=0.1), SGD(plain.parameters(), lr=0.1)
    model, wrapped = accelerator.prepare(model, optimizer)
    GroupLasso(channel_groups(model), LAMBDA).attach(wrapped)
    GroupLasso(channel_groups(plain), LAMBDA).attach(plain_optimizer)
    images = torch.randn(2, 4, 3, 8, 8)
    before = weights(model)
    for micro_batch in images:
        with accelerator.accumulate(model):
            accelerator.backward(model(micro_batch).square().mean())
            wrapped.step()
            wrapped.zero_grad()
        if micro_batch is images[0]:
            assert torch.equal(weights(model)["0.weight"], before["0.weight"])
    for micro_batch in images:
        (plain(micro_batch).square().mean() / 2).backward()
    plain_optimizer.step()
    for name, weight in weights(plain).items():
        torch.testing.assert_close(weights(model)[name], weight)


@pytest.mark.parametrize("metric", METRICS)
def test_a_resumed_run_is_the_same_to_the_last_bit(metric):
    def start():
        model = network()
        optimizer = AdamW(model.parameters(), lr=0.01)
        lasso = GroupLasso(channel_groups(model), 0.0, metric=metric)
        lasso.attach(optimizer)
        return model, optimizer, lasso

    model, optimizer, lasso = start()
    lasso.lambda_ = 3e-4
    train(model, optimizer, range(6))
    saved = copy.deepcopy([part.state_dict() for part in (model, optimizer, lasso)])
    train(model, optimizer, range(6, 12))

    resumed = start()
    for part, state in zip(resumed, saved, strict=True):
        part.load_state_dict(state)
    assert resumed[2].lambda_ == 3e-4
    train(resumed[0], resumed[1], range(6, 12))
    assert all(
        torch.equal(mine, theirs)
        for mine, theirs in zip(model.state_dict().values(), resumed[0].state_dict().values(), strict=True)
    )
    assert all(
        torch.equal(mine, resumed[2].state_dict()["norms"][name])
        for name, mine in lasso.state_dict()["norms"].items()
    )


def test_the_saved_state_does_not_move_with_training():
    model = network()
    optimizer = AdamW(model.parameters(), lr=0.01)
    lasso = GroupLasso(channel_groups(model), 1e-4, metric="adam")
    lasso.attach(optimizer)
    train(model, optimizer, [0])
    state = lasso.state_dict()
    kept = {name: value.clone() for name, value in state["norms"].items()}
    train(model, optimizer, [1, 2])
    assert kept and all(torch.equal(state["norms"][name], value) for name, value in kept.items())


def test_states_of_other_metrics_and_groups_are_refused():
    model = network()
    lasso = GroupLasso(channel_groups(model), LAMBDA, metric="adam")
    other = GroupLasso(channel_groups(model), LAMBDA, metric="euclidean").state_dict()
    with pytest.raises(
        ValueError, match="^Expected `state` to be of metric `adam`, but got one of `euclidean`.$"
    ):
        lasso.load_state_dict(other)
    state = {"metric": "adam", "lambda_": 5.0, "norms": {"0.weight": torch.ones(2, 4)}}
    with pytest.raises(ValueError) as error:
        lasso.load_state_dict(state)
    assert str(error.value) == (
        "Expected `state` to be of the same channel groups, but got 4 norms for `0.weight`, "
        "which has 3 groups here."
    )
    state["norms"] = {"9.weight": torch.ones(2, 4)}
    with pytest.raises(ValueError, match="got 4 norms for `9.weight`, which is unknown here."):
        lasso.load_state_dict(state)
    assert lasso.lambda_ == LAMBDA


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_lambda_must_be_finite_and_not_negative(value):
    model = network()
    message = f"^Expected `lambda_` to be finite and at least 0, but got {value}.$"
    with pytest.raises(ValueError, match=message):
        GroupLasso(channel_groups(model), value)
    lasso = GroupLasso(channel_groups(model), 1.0)
    with pytest.raises(ValueError, match=message):
        lasso.lambda_ = value
    assert lasso.lambda_ == 1.0


def test_an_unknown_metric_is_refused():
    # Behind the shape checks, which already refuse it while tests run.
    init = inspect.unwrap(ProximalPenalty.__init__)
    with pytest.raises(UnknownNameError, match="Unknown metric `adma`, did you mean `adam`"):
        init(object.__new__(GroupLasso), 1.0, "adma")


def test_no_groups_are_refused():
    with pytest.raises(ValueError, match="^Expected `groups` to list at least one weight, but got none.$"):
        GroupLasso([], 1.0)


def test_a_parametrised_weight_is_refused():
    layer = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 1))
    with pytest.raises(TypeError) as error:
        GroupLasso(channel_groups(layer), 1.0)
    assert str(error.value) == (
        "Expected `weight` to be a parameter, but got a computed tensor. "
        "Remove the layer's parametrization first, or leave the layer out."
    )


def test_parameters_that_the_optimizer_lacks_are_named():
    model = network()
    lasso = GroupLasso(channel_groups(model), 1.0)
    with pytest.raises(ValueError) as error:
        lasso.attach(SGD(model[0].parameters(), lr=0.1))
    assert str(error.value) == (
        "Expected `optimizer` to hold every parameter of the groups, but got one without `3.weight` "
        "and 1 more. Give it these parameters, or leave them out of the groups."
    )


def test_adams_metric_refuses_other_optimizers():
    model = network()
    with pytest.raises(TypeError) as error:
        GroupLasso(channel_groups(model), 1.0, metric="adam").attach(SGD(model.parameters(), lr=0.1))
    assert str(error.value) == (
        "Expected `optimizer` to be Adam or AdamW for metric `adam`, but got SGD, "
        "which keeps no second moments. Use metric `euclidean`."
    )


def test_what_is_no_optimizer_is_refused():
    model = network()
    with pytest.raises(
        TypeError, match="^Expected `optimizer` to be a torch optimizer, but got Sequential.$"
    ):
        GroupLasso(channel_groups(model), 1.0).attach(model)


def test_a_second_optimizer_is_refused():
    model = network()
    lasso = GroupLasso(channel_groups(model), 1.0)
    lasso.attach(SGD(model.parameters(), lr=0.1))
    with pytest.raises(ValueError) as error:
        lasso.attach(SGD(model.parameters(), lr=0.1))
    assert str(error.value) == (
        "Expected the group lasso to be attached to no optimizer, but got a second one. Call detach() first."
    )


def test_adams_metric_needs_adams_first_step():
    model = network()
    optimizer = Adam(model.parameters())
    backward(model, optimizer, 0)
    with pytest.raises(ValueError) as error:
        GroupLasso(channel_groups(model), 1.0, metric="adam").step(optimizer)
    assert str(error.value) == (
        "Expected `optimizer` to have second moments of `0.weight`, but got none. "
        "Take an optimizer step before the first proximal one."
    )


@pytest.mark.parametrize("metric", METRICS)
def test_small_and_large_layers_go_in_several_bunches_with_the_same_result(metric, monkeypatch):
    results = []
    for most in (1, 10**9):
        monkeypatch.setattr("lomt.sparsity.group_lasso._MOST_WEIGHTS", most)
        model = network()
        optimizer = AdamW(model.parameters(), lr=0.01)
        GroupLasso(channel_groups(model), 1e-4, metric=metric).attach(optimizer)
        train(model, optimizer, range(3))
        results.append(weights(model))
    for name, weight in results[0].items():
        torch.testing.assert_close(results[1][name], weight, rtol=1e-5, atol=1e-7)
