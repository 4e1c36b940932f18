from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from lomt.training.last_layer_posterior import (
    Posterior,
    likelihood_of,
    sampled_moments,
    squared_error_moments,
    updated,
)

PRIOR = 0.7


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def inputs_of(count, seed=0):
    return torch.cat([draw(count, 4, seed=seed), torch.ones(count, 1, dtype=torch.float64)], dim=1)


def at_first(outputs):
    return Posterior(
        torch.zeros(outputs, 5, dtype=torch.float64),
        PRIOR * torch.eye(5, dtype=torch.float64).repeat(outputs, 1, 1),
    )


def spread(outputs=3, seed=5):
    factors = draw(outputs, 5, 5, seed=seed)
    return Posterior(
        draw(outputs, 5, seed=seed + 1), factors @ factors.mT + torch.eye(5, dtype=torch.float64)
    )


def take(before, inputs, wanted, valid, loss, memory):
    return updated(before, inputs, wanted, valid, likelihood_of(loss), prior_precision=PRIOR, memory=memory)


@pytest.mark.parametrize("memory", [0.0, 0.6])
def test_squared_errors_give_ridge_regression_on_all_batches_by_age(memory):
    batches = [(inputs_of(6, s), draw(6, 2, seed=10 + s), draw(6, 2, seed=20 + s) > -0.5) for s in range(3)]
    posterior = at_first(2)
    for inputs, wanted, valid in batches:
        posterior = take(posterior, inputs, wanted, valid, "mse", memory)
    for k in range(2):
        precision, sums = PRIOR * torch.eye(5, dtype=torch.float64), torch.zeros(5, dtype=torch.float64)
        for age, (inputs, wanted, valid) in enumerate(reversed(batches)):
            own = inputs[valid[:, k]]
            precision += memory**age * own.T @ own
            sums += memory**age * own.T @ wanted[valid[:, k], k]
        torch.testing.assert_close(posterior.precision[k], precision)
        torch.testing.assert_close(posterior.mean[k], torch.linalg.solve(precision, sums))


def test_one_output_classes_take_newtons_step():
    inputs, wanted = inputs_of(30), (draw(30, 1, seed=1) > 0).double()
    posterior = take(at_first(1), inputs, wanted, torch.ones(30, 1, dtype=torch.bool), "bce", 0.5)
    weights = torch.zeros(5, dtype=torch.float64, requires_grad=True)

    def loss(w):
        return (
            F.binary_cross_entropy_with_logits(inputs @ w, wanted[:, 0], reduction="sum") + PRIOR / 2 * w @ w
        )

    gradient = torch.autograd.grad(loss(weights), weights)[0]
    hessian = torch.autograd.functional.hessian(loss, weights.detach())
    torch.testing.assert_close(posterior.precision[0], hessian)
    torch.testing.assert_close(posterior.mean[0], -torch.linalg.solve(hessian, gradient))


@pytest.mark.parametrize("classes", [2, 4])
def test_softmax_steps_never_go_too_far_and_end_at_the_least_loss(classes):
    """Looking at one batch again and again."""
    inputs = inputs_of(40)
    wanted = F.one_hot(draw(40, classes, seed=3).argmax(1), classes).double()

    def loss(weights):
        return -(wanted * (inputs @ weights.T).log_softmax(1)).sum()

    posterior, losses = at_first(classes), []
    for _ in range(60):
        losses.append(float(loss(posterior.mean)))
        posterior = take(posterior, inputs, wanted, torch.ones_like(wanted).bool(), "cross_entropy", 0.9)
    assert all(now <= before + 1e-6 for before, now in pairwise(losses[:20]))
    best = torch.zeros(classes, 5, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([best], max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        value = loss(best)
        value.backward()
        return value

    optimizer.step(closure)
    least = float(loss(best.detach()))
    assert losses[-1] - least < 0.02 * (losses[0] - least)


def test_squared_error_moments_are_those_of_draws():
    posterior, inputs, wanted = spread(), inputs_of(4), draw(4, 3, seed=2)
    valid = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 0, 1], [0, 0, 0]]).bool()
    exact = squared_error_moments(posterior, inputs, wanted, valid)
    samples = 20_000
    drawn = sampled_moments(
        posterior,
        inputs,
        wanted,
        valid,
        lambda z, y: 2 * (z - y),
        samples=samples,
        generator=torch.Generator().manual_seed(0),
    )
    error = (exact.variance / samples).sqrt()
    assert ((drawn.mean - exact.mean).abs() <= 5 * error).all()
    # The fourth moment of a product of Gaussians is at most a few times that of a Gaussian.
    torch.testing.assert_close(drawn.variance, exact.variance, rtol=0.1, atol=0)
    assert not exact.variance[3].any()
    assert not exact.mean[3].any()


def test_draws_follow_their_generator():
    arguments = (spread(), inputs_of(3), draw(3, 3), torch.ones(3, 3, dtype=torch.bool), torch.sub)

    def moments(seed):
        return sampled_moments(*arguments, samples=4, generator=torch.Generator().manual_seed(seed))

    assert moments(1).mean.equal(moments(1).mean)
    assert not moments(1).mean.equal(moments(2).mean)


def test_a_certain_posterior_gives_the_plain_gradient():
    posterior = Posterior(draw(2, 5), 1e14 * torch.eye(5, dtype=torch.float64).repeat(2, 1, 1))
    inputs, wanted = inputs_of(6), draw(6, 2, seed=9)
    moments = squared_error_moments(posterior, inputs, wanted, torch.ones(6, 2, dtype=torch.bool))
    leaf = inputs.clone().requires_grad_()
    ((leaf @ posterior.mean.T - wanted) ** 2).sum().backward()
    torch.testing.assert_close(moments.mean, leaf.grad[:, :-1])
    assert (moments.variance < 1e-9).all()
