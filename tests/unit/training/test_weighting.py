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
    assert not any(v.requires_grad for v in make_weighting(name, {"depth": 1.0}).coefficients().values())
