import pytest
import torch

from lomt.grouping import SparseProjection, collect_gradients, shared_parameters
from lomt.grouping.task_scores import sample_scores


def slow_table(model, tasks, batch, projection, parameters):
    """One backward pass a task and sample."""
    model.eval()
    rows = []
    for name, task in tasks.items():
        own = []
        for index in range(len(batch["image"])):
            one = slice(index, index + 1)
            score = sample_scores(task, model(batch["image"][one])[name], batch[name][one]).values
            gradients = torch.autograd.grad(score[0], list(parameters.values()), allow_unused=True)
            own.append(projection.project([None if g is None else g[None] for g in gradients])[0])
        rows.append(torch.stack(own))
    return torch.stack(rows)


@pytest.mark.parametrize("at_once", [1, 4, None])
def test_table_is_that_of_single_backward_passes(network, tasks, batch, at_once):
    network.train()
    parameters = shared_parameters(network, norms=True)
    projection = SparseProjection(tuple(p.numel() for p in parameters.values()), 12)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    done = []
    table = collect_gradients(
        network, tasks, [batch], projection, parameters, samples_at_once=at_once, on_samples=done.append
    )

    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert sum(done) == 6
    assert torch.allclose(
        table.gradients, slow_table(network, tasks, batch, projection, parameters), rtol=1e-3, atol=1e-4
    )
    assert table.is_valid.tolist()[1] == [True, True, True, True, False, True]
    assert table.part(slice(2, 4)).values.shape == (3, 2)


def test_shared_are_weights_outside_decoders(network):
    assert set(shared_parameters(network)) == {"backbone.first.0.weight", "backbone.second.weight"}
    assert len(shared_parameters(network, norms=True)) == 6
