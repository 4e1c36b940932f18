"""A step after the cut is the step that would have been."""

import pytest
import torch
from torch import nn

from lomt.errors import ArtifactError
from lomt.pruning.apply import apply_plan
from lomt.pruning.optimizer_state import carry_optimizer
from lomt.pruning.plan import PruningPlan, Replacement

KEPT = (1, 4, 5)
PLAN = PruningPlan(
    keep={"0": KEPT},
    tensors={
        **{name: {0: KEPT} for name in ("0.weight", "0.bias")},
        **{f"1.{name}": {0: KEPT} for name in ("weight", "bias", "running_mean", "running_var")},
        "3.weight": {1: KEPT},
    },
    attributes=(),
    replaced=(),
    protected={},
    counts={"0": 6},
    params_before=1,
    params_after=1,
    macs_before=1,
    macs_after=1,
)
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1, betas=(0.8, 0.95)),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01),
}


def net():
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 2, 1))
    return nn.Sequential(*layers).double().eval()


def loss(model, seed):
    images = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return model(images).square().sum()


def step(model, optimizer, seed):
    optimizer.zero_grad()
    loss(model, seed).backward()
    optimizer.step()


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_one_more_step_is_that_of_the_masked_model(kind):
    """Where the lost channels are not read, both models compute the same and so do their gradients."""
    model = net()
    optimizer = OPTIMIZERS[kind](model.parameters())
    for seed in range(3):
        step(model, optimizer, seed)
    with torch.no_grad():
        model[3].weight[:, [c for c in range(6) if c not in KEPT]] = 0
    smaller = apply_plan(model, PLAN)
    carried = carry_optimizer(optimizer, model, smaller, PLAN)

    step(model, optimizer, 7)
    step(smaller, carried, 7)

    expected = apply_plan(model, PLAN).state_dict()
    for name, value in smaller.named_parameters():
        torch.testing.assert_close(value.detach(), expected[name], rtol=1e-12, atol=1e-14)


def test_without_the_state_the_step_is_another():
    model = net()
    optimizer = OPTIMIZERS["adam"](model.parameters())
    for seed in range(3):
        step(model, optimizer, seed)
    first, second = apply_plan(model, PLAN), apply_plan(model, PLAN)
    step(first, carry_optimizer(optimizer, model, first, PLAN), 7)
    step(second, OPTIMIZERS["adam"](second.parameters()), 7)

    assert (first[0].weight - second[0].weight).abs().max() > 1e-4


def test_groups_keep_their_settings_and_the_old_optimizer_is_left_alone():
    model = net()
    groups = [
        {"params": [model[0].weight, model[3].weight], "weight_decay": 0.3},
        {"params": [model[0].bias], "lr": 0.5},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.01)
    step(model, optimizer, 0)
    moments = {p: s["exp_avg"].clone() for p, s in optimizer.state.items()}
    smaller = apply_plan(model, PLAN)

    carried = carry_optimizer(optimizer, model, smaller, PLAN)

    assert type(carried) is torch.optim.AdamW
    assert [(g["lr"], g["weight_decay"]) for g in carried.param_groups] == [(0.01, 0.3), (0.5, 0.01)]
    assert [len(g["params"]) for g in carried.param_groups] == [2, 1]
    assert carried.param_groups[0]["params"][0] is smaller[0].weight
    assert carried.state[smaller[0].bias]["step"] == 1
    step(smaller, carried, 1)
    assert carried.state[smaller[0].bias]["step"] == 2
    assert all(torch.equal(s["exp_avg"], moments[p]) for p, s in optimizer.state.items())
    assert all(s["step"] == 1 for s in optimizer.state.values())
    assert carried.state_dict()["param_groups"][1]["params"] == [2]


def test_hooks_are_left_behind():
    model = net()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    calls = []
    optimizer.register_step_post_hook(lambda *_: calls.append(1))
    smaller = apply_plan(model, PLAN)
    step(smaller, carry_optimizer(optimizer, model, smaller, PLAN), 0)

    assert calls == []


def test_parameters_of_replaced_modules_go_and_foreign_ones_stay():
    model, own = net(), nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD(
        [{"params": [model[0].weight, own]}, {"params": [model[1].weight, model[1].bias]}],
        lr=0.1,
        momentum=0.9,
    )
    (loss(model, 0) + own.sum()).backward()
    optimizer.step()
    plan = PruningPlan({}, {}, (), (Replacement("1", "identity"),), {}, {}, 1, 1, 1, 1)
    smaller = apply_plan(model, plan)

    carried = carry_optimizer(optimizer, model, smaller, plan)

    ((group),) = carried.param_groups
    assert group["params"][1] is own
    assert len(group["params"]) == 2
    assert torch.equal(carried.state[own]["momentum_buffer"], optimizer.state[own]["momentum_buffer"])


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(6, 4)
        self.head = nn.Linear(4, 6, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x):
        return self.head(self.embed(x))


@pytest.mark.parametrize("name", ["embed.weight", "head.weight"])
def test_a_plan_may_name_a_shared_weight_by_any_name(name):
    model = Tied()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    model(torch.arange(6)).sum().backward()
    optimizer.step()
    plan = PruningPlan({}, {name: {1: (0, 2)}}, (), (), {}, {}, 1, 1, 1, 1)
    smaller = apply_plan(model, plan)

    carried = carry_optimizer(optimizer, model, smaller, plan)

    buffer = carried.state[smaller.embed.weight]["momentum_buffer"]
    assert torch.equal(buffer, optimizer.state[model.embed.weight]["momentum_buffer"][:, [0, 2]])


def test_a_fresh_optimizer_is_carried_too():
    model = net()
    smaller = apply_plan(model, PLAN)
    carried = carry_optimizer(OPTIMIZERS["adam"](model.parameters()), model, smaller, PLAN)
    step(smaller, carried, 0)

    assert carried.state[smaller[0].bias]["step"] == 1


def test_a_plan_of_another_model_is_refused():
    model = net()
    optimizer = OPTIMIZERS["adam"](model.parameters())
    step(model, optimizer, 0)
    with pytest.raises(ArtifactError) as caught:
        carry_optimizer(optimizer, model, net(), PLAN)
    assert str(caught.value) == (
        "Expected `0.weight` of the smaller model to have shape (3, 3, 3, 3), as the plan says, but got "
        "(6, 3, 3, 3): the plan was made for another model."
    )


def test_state_that_cannot_be_cut_is_refused():
    model = net()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    optimizer.state[model[0].weight]["rows"] = torch.zeros(6, 1)
    with pytest.raises(TypeError) as caught:
        carry_optimizer(optimizer, model, apply_plan(model, PLAN), PLAN)
    assert str(caught.value) == (
        "Expected the optimizer to keep one number or (6, 3, 3, 3) of them for `0.weight`, but its `rows` has shape "
        "(6, 1). Make a new optimizer for the smaller model."
    )
