import copy

import pytest
import torch

from lomt.grouping import gradient_cosine, lookahead, shared_parameters
from lomt.training import BatchLosses


@pytest.fixture
def setting(network, tasks, batch):
    network.eval()
    shared = shared_parameters(network, norms=True)
    losses = BatchLosses(tasks)
    return network, shared, lambda model=network: losses(model, batch)


def test_lookahead_is_a_step_and_another_look(setting):
    network, shared, losses = setting
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found = lookahead(losses, list(shared.values()), 0.05)

    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    for column, source in enumerate(losses()):
        other = copy.deepcopy(network)
        own = shared_parameters(other, norms=True)
        gradients = torch.autograd.grad(losses(other)[source], list(own.values()), allow_unused=True)
        with torch.no_grad():
            for parameter, gradient in zip(own.values(), gradients, strict=True):
                if gradient is not None:
                    parameter -= 0.05 * gradient
        for row, target in enumerate(losses()):
            expected = 1 - float(losses(other)[target].detach() / losses()[target].detach())
            assert float(found[row, column]) == pytest.approx(expected, abs=1e-6)


def test_cosine_is_that_of_whole_gradients(setting):
    _network, shared, losses = setting
    found = gradient_cosine(losses, list(shared.values()))
    rows = []
    for loss in losses().values():
        gradients = torch.autograd.grad(loss, list(shared.values()), retain_graph=True, allow_unused=True)
        pairs = zip(gradients, shared.values(), strict=True)
        rows.append(torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs]))
    expected = torch.nn.functional.cosine_similarity(rows[0], rows[1], dim=0)

    assert float(found[0, 1]) == pytest.approx(float(expected), abs=1e-5)
    assert found.diag().tolist() == pytest.approx([1, 1, 1])
