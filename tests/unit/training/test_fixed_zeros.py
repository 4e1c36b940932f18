import pytest
import torch
from torch import nn

from lomt.training import FixedZeros


def net():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    with torch.no_grad():
        model[0].weight[1:3] = 0
        model[1].bias.zero_()
        model[2].weight[0, 0] = 0
    return model


def trained(model, zeros, steps=4):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    zeros.attach(optimizer, model)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(5, 3, 2, 2, generator=torch.Generator().manual_seed(1))).square().sum().backward()
        optimizer.step()
    return model


def test_weights_that_are_zero_stay_and_all_others_move():
    before, after = net(), trained(net(), FixedZeros())
    for name, value in after.named_parameters():
        was_zero = before.get_parameter(name) == 0
        if value.ndim > 1:
            assert (value == 0).equal(was_zero)
        else:
            assert bool((value != 0).all()), name


def test_only_the_parameters_named():
    after = trained(net(), FixedZeros(["0.weight"]))
    assert bool((after[0].weight[1:3] == 0).all())
    assert bool((after[2].weight != 0).all())


def test_the_record_counts_and_the_state_is_empty():
    zeros = FixedZeros()
    trained(net(), zeros)
    zeros.before_epoch(1)
    assert zeros.after_epoch(0, net(), None) == {"fixed_zeros": 2 * 3 + 1}
    state = zeros.state()
    assert (dict(state.tensors), dict(state.facts)) == ({}, {})
    zeros.restore(state)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam])
def test_any_optimizer(kind):
    model = net()
    optimizer = kind(model.parameters(), lr=0.1)
    FixedZeros().attach(optimizer, model)
    model(torch.ones(2, 3, 2, 2)).sum().backward()
    optimizer.step()
    assert bool((model[0].weight[1:3] == 0).all())
