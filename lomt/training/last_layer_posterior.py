r"""A Gaussian posterior over a task's last layer, and what it says of the loss's gradient in the features.

A last layer maps the features of an example, with a 1 for the bias, :math:`\phi \in \mathbb{R}^{D}`, to outputs
:math:`z_k = w_k^\top \phi`. Outputs are taken as independent of each other:
:math:`w_k \sim \mathcal{N}(m_k, \Lambda_k^{-1})`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = [
    "Likelihood",
    "Moments",
    "Posterior",
    "likelihood_of",
    "sampled_moments",
    "squared_error_moments",
    "updated",
]


@dataclass(frozen=True)
class Posterior:
    """Independent Gaussians, one an output.

    Args:
        mean: Of the weights.
        precision: Inverse covariances, positive definite.
    """

    mean: Float[Tensor, "outputs inputs"]
    precision: Float[Tensor, "outputs inputs inputs"]


@dataclass(frozen=True)
class Moments:
    """Mean and variance of each example's gradient, entry by entry.

    Args:
        mean: Of the gradient of the example's loss in its features.
        variance: Of the same.
    """

    mean: Float[Tensor, "examples features"]
    variance: Float[Tensor, "examples features"]


@dataclass(frozen=True)
class Likelihood:
    """How outputs and what they should be make a negative log-likelihood.

    Args:
        residual: Its gradient in the outputs, from outputs and wanted values.
        curvature: The diagonal of its second derivative in the outputs.
        step: Length of a Newton step that looks at this diagonal alone.
    """

    residual: Callable[[Tensor, Tensor], Tensor]
    curvature: Callable[[Tensor], Tensor]
    step: float = 1.0


def likelihood_of(loss: str) -> Likelihood:
    r"""Return the likelihood that belongs to a loss.

    Args:
        loss: ``"mse"`` (Gaussian of variance 1), ``"bce"`` (a Bernoulli an output) or ``"cross_entropy"`` (softmax;
            of its curvature :math:`\mathrm{diag}(p) - p p^\top` the diagonal. Twice the diagonal bounds it from above,
            so that half a step never goes too far).
    """
    return {
        "mse": Likelihood(torch.sub, torch.ones_like),
        "bce": Likelihood(lambda z, wanted: z.sigmoid() - wanted, lambda z: z.sigmoid() * (-z).sigmoid()),
        "cross_entropy": Likelihood(
            lambda z, wanted: z.softmax(1) - wanted, lambda z: z.softmax(1) * (1 - z.softmax(1)), step=0.5
        ),
    }[loss]


def updated(
    before: Posterior,
    inputs: Float[Tensor, "examples inputs"],
    wanted: Float[Tensor, "examples outputs"],
    valid: Bool[Tensor, "examples outputs"],
    likelihood: Likelihood,
    *,
    prior_precision: float,
    memory: float,
    reduce: Callable[[Tensor], Tensor] = lambda value: value,
) -> Posterior:
    r"""Take a batch into a posterior: exact for squared errors, one Newton step for the others (Laplace, GGN).

    With :math:`\gamma` the prior precision, :math:`\rho` the memory and :math:`\Lambda = \gamma I + A` the precision
    before, what was known counts as a prior

    .. math:: \Lambda_0 = \gamma I + \rho A, \qquad m_0 = \Lambda_0^{-1} \rho \, \Lambda m

    from which, :math:`r` and :math:`c` being residuals and curvatures at :math:`m_0` and :math:`s` the step,

    .. math:: \Lambda' = \Lambda_0 + \sum_i c_i \phi_i \phi_i^\top, \qquad
        m' = m_0 - s \Lambda'^{-1} \sum_i r_i \phi_i .

    For squared errors this is ridge regression on all batches so far, weighted by :math:`\rho^{\text{age}}`.

    Args:
        before: Mean 0 and precision :math:`\gamma I` at first.
        inputs: Features with a 1, of a batch.
        wanted: What the outputs should be.
        valid: Which of them are labelled.
        likelihood: Of the outputs.
        prior_precision: :math:`\gamma > 0`.
        memory: :math:`\rho`, 0 to below 1.
        reduce: Sum over processes.
    """
    unit = prior_precision * torch.eye(inputs.shape[1], dtype=before.mean.dtype, device=inputs.device)
    inputs, wanted = inputs.to(before.mean), wanted.to(before.mean)
    prior = unit + memory * (before.precision - unit)
    known = memory * (before.precision @ before.mean[..., None])
    mean = torch.linalg.solve(prior, known)[..., 0]
    outputs = inputs @ mean.T
    residual = torch.where(valid, likelihood.residual(outputs, wanted), 0)
    curvature = torch.where(valid, likelihood.curvature(outputs), 0)
    gram = torch.stack([(inputs * own[:, None]).T @ inputs for own in curvature.T])
    precision = prior + reduce(gram)
    change = torch.linalg.solve(precision, reduce(residual.T @ inputs)[..., None])[..., 0]
    return Posterior(mean - likelihood.step * change, precision)


def squared_error_moments(
    posterior: Posterior,
    inputs: Float[Tensor, "examples inputs"],
    wanted: Float[Tensor, "examples outputs"],
    valid: Bool[Tensor, "examples outputs"],
) -> Moments:
    r"""Return the exact moments of the gradient of the sum of squared errors.

    One output's gradient :math:`2 w (w^\top \phi - y)` is a product of two Gaussians in each entry :math:`d`: with
    :math:`S = \Lambda^{-1}`, :math:`b = m^\top \phi - y`, :math:`v = \phi^\top S \phi` and :math:`c = S \phi`,

    .. math:: \mathrm{E} = 2 (m_d b + c_d), \qquad
        \mathrm{Var} = 4 (m_d^2 v + b^2 S_{dd} + 2 m_d b c_d + S_{dd} v + c_d^2) .

    Outputs are independent: both add up over them.

    Args:
        posterior: Of the last layer.
        inputs: Features with a 1.
        wanted: Targets.
        valid: Which are labelled.

    References:
        Bayesian Uncertainty for Gradient Aggregation in Multi-Task Learning, Achituve et al., 2024,
        https://arxiv.org/abs/2402.04005, section on regression.
    """
    mean, variance = torch.zeros_like(inputs[:, :-1]), torch.zeros_like(inputs[:, :-1])
    covariances = torch.linalg.inv(posterior.precision).to(inputs)
    for own, covariance, y, is_valid in zip(
        posterior.mean.to(inputs), covariances, wanted.T.to(inputs), valid.T[..., None], strict=True
    ):
        spread = inputs @ covariance
        v = (spread * inputs).sum(1, keepdim=True)
        b = torch.where(is_valid, (inputs @ own - y)[:, None], 0)
        m, c, s = own[:-1], spread[:, :-1], covariance.diagonal()[:-1]
        mean += torch.where(is_valid, 2 * (m * b + c), 0)
        products = m**2 * v + b**2 * s + 2 * m * b * c + s * v + c**2
        variance += torch.where(is_valid, 4 * products, 0)
    return Moments(mean, variance)


def sampled_moments(
    posterior: Posterior,
    inputs: Float[Tensor, "examples inputs"],
    wanted: Float[Tensor, "examples outputs"],
    valid: Bool[Tensor, "examples outputs"],
    residual: Callable[[Tensor, Tensor], Tensor],
    *,
    samples: int,
    generator: torch.Generator,
) -> Moments:
    r"""Estimate the moments of the gradient :math:`\sum_k r_k(W \phi) w_k` from draws of the last layer.

    Args:
        posterior: Of the last layer.
        inputs: Features with a 1.
        wanted: What the outputs should be.
        valid: Which are labelled.
        residual: Gradient of the loss in the outputs.
        samples: Draws, 2 at least.
        generator: Of the draws, on the CPU.
    """
    factor = torch.linalg.cholesky(posterior.precision).mT
    total, squares, first = torch.zeros_like(inputs[:, :-1]), torch.zeros_like(inputs[:, :-1]), None
    for _ in range(samples):
        noise = torch.randn(posterior.mean.shape, generator=generator, dtype=torch.float64).to(posterior.mean)
        offset = torch.linalg.solve_triangular(factor, noise[..., None], upper=True)[..., 0]
        weights = (posterior.mean + offset).to(inputs)
        outputs = torch.where(valid, residual(inputs @ weights.T, wanted.to(inputs)), 0)
        gradient = outputs @ weights[:, :-1]
        # Around the first draw: a mean far from zero would swallow the variance.
        first = gradient if first is None else first
        total += gradient - first
        squares += (gradient - first).square()
    assert first is not None, "one draw at least"
    mean = total / samples
    variance = (squares - samples * mean.square()).clamp_min(0) / (samples - 1)
    return Moments(first + mean, variance)
