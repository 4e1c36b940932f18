import copy
from contextlib import ExitStack

import pytest
import torch
from torch import nn

from lomt.pruning.masked_weights import MaskedWeights

IMAGE = torch.rand(2, 6, 9, 9)
LAYERS = {
    "convolution": nn.Conv2d(6, 8, 3, stride=2, padding=1),
    "without bias": nn.Conv2d(6, 8, 3, dilation=2, bias=False),
    "grouped": nn.Conv2d(6, 8, 3, groups=2),
    "transposed": nn.ConvTranspose2d(6, 8, 3, stride=2),
    "linear": nn.Sequential(nn.Flatten(2), nn.Linear(81, 5)),
    "lists of weights": nn.Sequential(nn.Flatten(2), nn.LSTM(81, 4, batch_first=True)),
}


def run(model, *modes):
    with torch.no_grad(), ExitStack() as stack:
        for mode in modes:
            stack.enter_context(mode)
        found = model(IMAGE)
    return found[0] if isinstance(found, tuple) else found


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("dims", [(0,), (1,), (0, 1)])
def test_masked_is_what_weights_with_zeros_compute(name, dims):
    model = LAYERS[name]
    zeroed, removed = copy.deepcopy(model), {}
    for own, copied in zip(model.parameters(), zeroed.parameters(), strict=True):
        places = {dim: torch.arange(0, own.shape[dim], 2) for dim in dims if dim < own.ndim}
        removed[id(own)] = places
        for dim, positions in places.items():
            copied.data.index_fill_(dim, positions, 0)
    before = copy.deepcopy(model.state_dict())
    torch.testing.assert_close(run(model, MaskedWeights({}, removed)), run(zeroed))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", LAYERS)
def test_stand_ins_are_read_instead_and_masked_as_well(name):
    model = LAYERS[name]
    other, stand_ins, removed = copy.deepcopy(model), {}, {}
    for own, copied in zip(model.parameters(), other.parameters(), strict=True):
        copied.data.uniform_(1, 2)
        stand_ins[id(own)] = copied.detach().clone()
        removed[id(own)] = {0: torch.tensor([1])}
        copied.data[1] = 0
    torch.testing.assert_close(run(model, MaskedWeights(stand_ins, removed)), run(other))
    assert not torch.equal(run(model), run(other))
