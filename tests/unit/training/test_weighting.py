import pytest
import torch

from lomt.errors import UnknownNameError
from lomt.training.weighting import WEIGHTINGS, make_weighting


def test_fixed_weights_are_the_recipes():
    weighting = make_weighting("fixed", {"depth": 2.0, "edges": 0.5})

    assert {k: float(v) for k, v in weighting.coefficients().items()} == {"depth": 2.0, "edges": 0.5}
    assert not list(weighting.parameters())


def test_uncertainty_gradient_is_that_of_the_formula():
    weighting = make_weighting("uncertainty", {"depth": 2.0, "edges": 1.0})
    with torch.no_grad():
        weighting.log_variances.copy_(torch.tensor([0.3, -0.7]))
    losses = torch.tensor([1.7, 0.4])
    s = weighting.log_variances.detach().clone().requires_grad_()
    total = (torch.tensor([2.0, 1.0]) * (torch.exp(-s) * losses + s)).sum()
    total.backward()

    weighting.observe(dict(zip(("depth", "edges"), losses, strict=True)))

    assert torch.allclose(weighting.log_variances.grad, s.grad)


def test_uncertainty_coefficient_falls_where_the_loss_is_large():
    weighting = make_weighting("uncertainty", {"depth": 1.0})
    optimizer = torch.optim.SGD(weighting.parameters(), lr=0.1)
    for _ in range(200):
        weighting.observe({"depth": torch.tensor(4.0)})
        optimizer.step()

    assert float(weighting.coefficients()["depth"]) == pytest.approx(0.25, rel=1e-2)


def test_unknown_weighting_is_named():
    with pytest.raises(UnknownNameError, match="Unknown weighting `fixd`, did you mean `fixed`"):
        make_weighting("fixd", {"depth": 1.0})


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_coefficients_have_no_graph(name):
    assert not any(
        v.requires_grad for v in make_weighting(name, {"depth": 1.0}, target="depth").coefficients().values()
    )


def adaptive(weights, steps):
    weighting = make_weighting("adaptive", weights)
    weighting.begin(steps)
    return weighting


def observed(weighting, losses):
    """Show it the tasks' losses step by step and return the coefficients after each."""
    found = []
    for values in zip(*losses.values(), strict=True):
        weighting.observe({task: torch.tensor(v) for task, v in zip(losses, values, strict=True)})
        found.append({task: float(v) for task, v in weighting.coefficients().items()})
    return found


def test_adaptive_weights_are_the_means_of_relative_changes():
    generator = torch.Generator().manual_seed(0)
    losses = {
        task: (0.5 + torch.rand(200, generator=generator)).tolist() for task in ("depth", "edges", "normals")
    }
    weights = {"depth": 2.0, "edges": 1.0, "normals": 1.0}
    found = observed(adaptive(weights, 800), losses)
    # A quarter of 800 steps without a change is beyond these losses: nothing moves.
    assert found[-1] == weights

    found = observed(adaptive(weights, 400), losses)  # collects from step 100 on, in a window of 10
    assert found[108] == weights
    for step in (109, 150, 199):
        means = {
            task: sum(abs(own[i - 1] - own[i]) / own[i] for i in range(step - 9, step + 1)) / 10
            for task, own in losses.items()
        }
        expected = {task: weights[task] * 3 * mean / sum(means.values()) for task, mean in means.items()}
        assert found[step] == pytest.approx(expected)


@pytest.mark.parametrize("tasks", [1, 2, 5])
def test_adaptive_weights_add_up_to_the_number_of_tasks(tasks):
    generator = torch.Generator().manual_seed(0)
    losses = {f"task{i}": (1 + torch.rand(60, generator=generator)).tolist() for i in range(tasks)}
    weighting = adaptive(dict.fromkeys(losses, 1.0), 40)

    assert sum(observed(weighting, losses)[-1].values()) == pytest.approx(tasks)


def test_the_task_that_moves_more_gets_more_weight():
    losses = {"calm": [1.0] * 40, "wild": [1.0, 2.0] * 20}
    assert observed(adaptive({"calm": 1.0, "wild": 1.0}, 40), losses)[-1] == {"calm": 0.0, "wild": 2.0}


def test_losses_that_stand_still_leave_the_weights():
    losses = {"a": [1.0] * 40, "b": [0.0] * 40}
    assert observed(adaptive({"a": 1.0, "b": 3.0}, 40), losses)[-1] == {"a": 1.0, "b": 3.0}


def test_resumed_adaptive_weights_go_on():
    generator = torch.Generator().manual_seed(0)
    losses = {task: (0.5 + torch.rand(60, generator=generator)).tolist() for task in ("a", "b")}
    weights = {"a": 1.0, "b": 1.0}
    whole, first, second = (adaptive(weights, 80) for _ in range(3))
    expected = observed(whole, losses)
    observed(first, {task: own[:37] for task, own in losses.items()})
    second.load_state_dict({name: value.clone() for name, value in first.state_dict().items()})

    assert observed(second, {task: own[37:] for task, own in losses.items()}) == expected[37:]
