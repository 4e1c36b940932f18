import pytest
import torch

from lomt.grouping import (
    FitOptions,
    Reach,
    SparseProjection,
    collect_gradients,
    estimate_affinity,
    lifted,
    linear_losses,
    shared_parameters,
    subsets_for,
)


def test_lifted_weights_come_back(network):
    parameters = shared_parameters(network)
    projection = SparseProjection(tuple(p.numel() for p in parameters.values()), 5)
    before = [p.detach().clone() for p in parameters.values()]
    w = torch.ones(5)
    with pytest.raises(RuntimeError, match="inside"), lifted(parameters, projection, w):
        moved = [float((p - b).detach().norm()) for p, b in zip(parameters.values(), before, strict=True)]
        raise RuntimeError("inside")

    assert moved == pytest.approx([float(piece.norm()) for piece in projection.lift(w)])
    assert all(torch.equal(p, b) for p, b in zip(parameters.values(), before, strict=True))


def test_reach_limits_the_lifted_length(network):
    parameters = shared_parameters(network)
    projection = SparseProjection(tuple(p.numel() for p in parameters.values()), 5)

    def length(change):
        return sum(float(piece.norm()) ** 2 for piece in projection.lift(change)) ** 0.5

    own = sum(float(p.detach().norm()) ** 2 for p in parameters.values()) ** 0.5
    far, near = 100 * torch.ones(5), 1e-6 * torch.ones(5)
    assert length(Reach(0.1).limit(far, projection, parameters)) == pytest.approx(0.1 * own, rel=1e-4)
    assert torch.equal(Reach(0.1).limit(near, projection, parameters), near)
    assert length(Reach(length=2.0).limit(near, projection, parameters)) == pytest.approx(2, rel=1e-4)
    assert torch.equal(Reach(None).limit(far, projection, parameters), far)
    assert torch.equal(Reach().limit(torch.zeros(5), projection, parameters), torch.zeros(5))


@pytest.mark.parametrize("name", ["share", "length"])
def test_reach_is_checked(name):
    with pytest.raises(ValueError, match=f"`{name}` to be above 0, but got 0"):
        Reach(**{name: 0})


def test_small_lifted_changes_do_what_the_linear_model_says(network, tasks, batch):
    """To first order: a hundredth of the change has a hundredth of the effect on each sample's number."""
    parameters = shared_parameters(network, norms=True)
    projection = SparseProjection(tuple(p.numel() for p in parameters.values()), 30)
    table = collect_gradients(network, tasks, [batch], projection, parameters)
    w = 1e-3 * torch.randn(30, generator=torch.Generator().manual_seed(0))
    with lifted(parameters, projection, w):
        after = collect_gradients(network, tasks, [batch], projection, parameters).values
    valid = table.is_valid

    assert torch.allclose((after - table.values)[valid], (table.gradients @ w)[valid], rtol=0.05, atol=2e-4)


def test_estimate_counts_subsets_and_keeps_facts(network, tasks, batch):
    parameters = shared_parameters(network)
    projection = SparseProjection(tuple(p.numel() for p in parameters.values()), 30)
    table = collect_gradients(network, tasks, [batch], projection, parameters)
    done = []
    found = estimate_affinity(
        table,
        subsets_for(table.tasks),
        lambda change: linear_losses(table, change),
        FitOptions(ridge=0.1),
        facts={"held_out": "train"},
        on_subset=lambda: done.append(1),
    )

    assert len(done) == 6
    assert found.facts["held_out"] == "train"
    assert bool((found.matrix.diag() > 0).all()), "a task alone gains on the samples it was fitted to"
