import pytest
import torch
from torch import nn

from lomt.errors import ScoreError
from lomt.tasks.loss_gradients import loss_gradients, task_losses, total_loss


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.shared, self.depth = nn.Linear(3, 2), nn.Linear(2, 1)
        self.norm = nn.BatchNorm1d(3)
        self.shared.requires_grad_(False)

    def forward(self, x):
        features = self.shared(self.norm(x))
        return {"depth": self.depth(features).sum(), "label": features.square().sum()}


def net():
    torch.manual_seed(0)
    return Net().double()


def batches(model):
    for seed in (0, 1):
        yield model(torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))


def gathered(model, losses, split):
    found = []
    parameters = dict(model.named_parameters())
    count = loss_gradients(model, parameters, losses, split, lambda name, own: found.append((name, own)))
    return count, found


def test_one_backward_pass_a_loss_and_the_model_is_as_it_was():
    model = net().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    count, found = gathered(model, batches, task_losses)

    assert count == 2
    assert [name for name, _ in found] == ["depth", "label"] * 2
    assert set(found[0][1]) == {
        "shared.weight",
        "shared.bias",
        "depth.weight",
        "depth.bias",
        "norm.weight",
        "norm.bias",
    }
    assert "depth.weight" not in found[1][1]
    assert model.training
    assert not model.shared.weight.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(before[name].equal(value) for name, value in model.state_dict().items())


def test_the_gradient_of_the_sum_is_the_sum_of_gradients():
    model = net()
    _, alone = gathered(model, batches, task_losses)
    _, together = gathered(model, batches, total_loss)
    for name, gradient in together[0][1].items():
        parts = [own[name] for _, own in alone[:2] if name in own]
        torch.testing.assert_close(gradient, torch.stack(parts).sum(0))


@pytest.mark.parametrize(
    ("losses", "split", "message"),
    [
        ([], total_loss, "Expected `losses` to give at least one batch, but got none"),
        (
            [torch.ones(2, requires_grad=True)],
            total_loss,
            r"Expected loss `all` to be a scalar, but got shape \(2,\)",
        ),
        ([{"a": torch.ones(())}], task_losses, "Expected loss `a` to depend on the model's parameters"),
        ([torch.ones(())], task_losses, "dictionary of task name → loss for each batch, but got one tensor"),
        (
            [{"a": torch.full((), torch.nan, requires_grad=True)}],
            task_losses,
            "Expected loss `a` to be finite, but got nan",
        ),
    ],
)
def test_what_is_no_loss(losses, split, message):
    with pytest.raises(ScoreError, match=message):
        gathered(net(), losses, split)
