"""Running statistics are the means over batches, and nothing else changes."""

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from lomt.training import recalibrate_batch_norm


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, momentum=0.3), nn.ReLU())
        self.drop = nn.Dropout(0.9)
        self.second = BatchNormAct2d(4)
        self.bare = nn.BatchNorm2d(4, track_running_stats=False)

    def forward(self, x):
        return self.bare(self.second(self.drop(self.first(x))))


@pytest.fixture
def batches():
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(size, 3, 5, 4, generator=generator) for size in (4, 2, 3)]


def test_statistics_are_exact_means_over_batches(batches):
    model = Net().double()
    model.first[1].running_mean.fill_(100.0)
    batches = [batch.double() for batch in batches]

    assert recalibrate_batch_norm(model, batches) == 3

    features = [model.first[0](batch) for batch in batches]
    mean = torch.stack([f.mean((0, 2, 3)) for f in features]).mean(0)
    variance = torch.stack([f.var((0, 2, 3)) for f in features]).mean(0)
    torch.testing.assert_close(model.first[1].running_mean, mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(model.first[1].running_var, variance, rtol=1e-12, atol=0)
    # Behind it: what the first norm gives when it takes each batch's own statistics, without dropout.
    norm = nn.BatchNorm2d(4).double()
    norm.load_state_dict(model.first[1].state_dict())
    after = [norm(f).relu().mean((0, 2, 3)) for f in features]
    torch.testing.assert_close(model.second.running_mean, torch.stack(after).mean(0), rtol=1e-12, atol=0)


def test_weights_modes_momenta_and_gradients_stay(batches):
    model = Net()
    model.first.eval()
    modes = [module.training for module in model.modules()]
    weights = {name: value.clone() for name, value in model.named_parameters()}

    recalibrate_batch_norm(model, batches)

    assert [module.training for module in model.modules()] == modes
    assert (model.first[1].momentum, model.second.momentum) == (0.3, 0.1)
    assert all(torch.equal(value, weights[name]) for name, value in model.named_parameters())
    assert all(value.grad is None for value in model.parameters())


def test_a_second_pass_over_the_same_batches_changes_nothing(batches):
    model = Net()
    recalibrate_batch_norm(model, batches)
    once = {name: value.clone() for name, value in model.state_dict().items()}
    recalibrate_batch_norm(model, batches)

    assert all(torch.equal(value, once[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("problem", ["none", "wrong"])
def test_failures_leave_the_statistics(batches, problem):
    model = Net()
    recalibrate_batch_norm(model, batches)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    wrong = [] if problem == "none" else [batches[0], torch.rand(1, 2, 5, 4)]

    with pytest.raises((ValueError, RuntimeError)) as caught:
        recalibrate_batch_norm(model, wrong)

    if problem == "none":
        assert str(caught.value) == "Expected `batches` to have at least one batch, but got none."
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.first[1].momentum == 0.3
    assert model.training


def test_without_statistics_nothing_is_read():
    def explode():
        raise AssertionError("read")
        yield

    assert recalibrate_batch_norm(nn.Sequential(nn.Conv2d(3, 1, 1), nn.InstanceNorm2d(1)), explode()) == 0
