import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from lomt.grouping import FitOptions, GradientTable, fit_subset, linear_losses
from lomt.grouping.task_scores import losses_of


def table(links, samples=60, dimension=4):
    generator = torch.Generator().manual_seed(0)
    shape = (len(links), samples)
    return GradientTable(
        tuple(f"t{row}" for row in range(len(links))),
        links,
        torch.randn(*shape, dimension, generator=generator),
        torch.randn(*shape, generator=generator),
        torch.rand(*shape, generator=generator) < 0.8,
    )


def strength(own, subset, ridge):
    rows = [own.tasks.index(task) for task in subset]
    squares = [own.gradients[r][own.is_valid[r]].double().square().sum(1).mean() for r in rows]
    return ridge * float(sum(squares)) / len(rows) / own.gradients.shape[-1]


@pytest.mark.parametrize("links", [("logistic", "logistic"), ("quadratic",), ("logistic", "quadratic")])
def test_fit_is_the_minimum(links):
    """The gradient of the objective, written out, vanishes there."""
    own = table(links)
    w = fit_subset(own, own.tasks, FitOptions(ridge=0.3)).double().requires_grad_()
    objective = strength(own, own.tasks, 0.3) * w.square().sum() / 2
    for row, link in enumerate(links):
        valid = own.is_valid[row]
        values = own.values[row][valid] + own.gradients[row][valid].double() @ w
        objective = objective + losses_of(values, link).mean()
    objective.backward()

    assert float(w.grad.abs().max()) < 1e-5


def test_without_offset_it_is_the_authors_logistic_regression():
    own = table(("logistic",), samples=200)
    options = FitOptions(ridge=0.05, offset=False, flip=0.7, seed=5)
    w = fit_subset(own, own.tasks, options)

    valid = own.is_valid[0]
    gradients = own.gradients[0][valid].double().numpy()
    keeps = torch.rand(len(gradients), generator=torch.Generator().manual_seed(5 * 100_003)) < 0.7
    signs = np.where(keeps.numpy(), 1.0, -1.0)
    c = 1 / (strength(own, own.tasks, 0.05) * len(gradients))
    model = LogisticRegression(C=c, tol=1e-10, max_iter=1000).fit(gradients * signs[:, None], signs)

    assert w.numpy() == pytest.approx(model.coef_[0], abs=1e-4)


def test_a_change_for_a_subset_lowers_its_losses():
    own = table(("logistic", "quadratic", "logistic"))
    before = linear_losses(own, torch.zeros(4))
    after = linear_losses(own, fit_subset(own, ["t1"]))

    assert after["t1"] < before["t1"]
    assert before["t0"] == pytest.approx(float(losses_of(own.values[0][own.is_valid[0]], "logistic").mean()))


@pytest.mark.parametrize(
    ("changes", "message"), [({"ridge": 0.0}, "`ridge` to be above 0"), ({"flip": 1.0}, "`flip`")]
)
def test_options_are_checked(changes, message):
    with pytest.raises(ValueError, match=message):
        FitOptions(**changes)
