import pytest
import torch
from torch import nn

from lomt.training.task_gradients import TaskGradients


class ThreeDepths(nn.Module):
    """Each task reads another layer."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.decoders = nn.ModuleDict({name: nn.Linear(4, 1) for name in ("first", "second", "third")})

    def forward(self, inputs):
        outputs = {}
        for layer, (name, decoder) in zip(self.backbone, self.decoders.items(), strict=True):
            inputs = torch.tanh(layer(inputs))
            outputs[name] = decoder(inputs).square().mean()
        return outputs


@pytest.fixture
def setting():
    torch.manual_seed(0)
    model = ThreeDepths().double()
    coefficients = {
        name: torch.tensor(float(index + 1)).double() for index, name in enumerate(model.decoders)
    }
    return model, torch.randn(5, 4).double(), coefficients


def collected(model, parts, coefficients):
    gradients = TaskGradients(model, list(model.decoders))
    gradients.rows = gradients.rows.double()
    for inputs in parts:
        gradients.add(model(inputs), coefficients)
    return gradients


def test_rows_are_single_backward_passes(setting):
    model, inputs, coefficients = setting
    gradients = collected(model, [inputs[:2], inputs[2:]], coefficients)
    shared = list(model.backbone.parameters())
    for row, name in enumerate(model.decoders):
        loss = model(inputs[:2])[name] + model(inputs[2:])[name]
        own = torch.autograd.grad(loss, shared, allow_unused=True)
        pairs = zip(own, shared, strict=True)
        expected = torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs])
        assert torch.allclose(gradients.rows[row], expected, atol=1e-12)
        assert float(gradients.norms()[name]) == pytest.approx(float(expected.norm()))
    assert not gradients.rows[0, 20:].any(), "the first task does not reach the second layer"


def test_rows_are_those_of_torchjd(setting):
    autojac = pytest.importorskip("torchjd.autojac")
    model, inputs, coefficients = setting
    gradients = collected(model, [inputs], coefficients)
    shared = list(model.backbone.parameters())
    autojac.backward(list(model(inputs).values()), inputs=shared)
    expected = torch.cat([p.jac.reshape(3, -1) for p in shared], dim=1)

    assert torch.allclose(gradients.rows, expected, atol=1e-6)


def test_without_aggregator_gradients_are_those_of_the_weighted_sum(setting):
    model, inputs, coefficients = setting
    gradients = collected(model, [inputs], coefficients)
    gradients.write(coefficients, None, 0)
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    sum(coefficients[name] * loss for name, loss in model(inputs).items()).backward()

    for name, parameter in model.named_parameters():
        assert torch.allclose(found[name], parameter.grad, atol=1e-12), name


def test_the_aggregator_gets_weighted_rows_and_sets_the_shared_weights(setting):
    model, inputs, coefficients = setting
    gradients = collected(model, [inputs], coefficients)
    seen = []

    def first(rows, step):
        seen.append((rows, step))
        return rows[0]

    gradients.write(coefficients, first, 7)

    assert seen[0][1] == 7
    assert torch.allclose(seen[0][0][2], 3 * gradients.rows[2])
    assert not model.backbone[1].weight.grad.any()
    assert torch.allclose(model.backbone[0].weight.grad.flatten(), gradients.rows[0, :16])
