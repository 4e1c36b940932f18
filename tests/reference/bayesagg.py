"""BayesAgg example by example, with loops and autograd: slow and obvious."""

import torch
import torch.nn.functional as F


def squared_moments(mean, covariance, example, y):
    """Of 2 w (w . x - y), w one Gaussian; from the moments of products of Gaussians, entry by entry."""
    means, variances = [], []
    b_mean, b_variance = mean @ example - y, example @ covariance @ example
    for d in range(len(example) - 1):
        shared = covariance[d] @ example
        means.append(2 * (mean[d] * b_mean + shared))
        variances.append(
            4
            * (
                mean[d] ** 2 * b_variance
                + b_mean**2 * covariance[d, d]
                + 2 * mean[d] * b_mean * shared
                + covariance[d, d] * b_variance
                + shared**2
            )
        )
    return torch.stack(means), torch.stack(variances)


def draws(posterior, samples, generator):
    """Return last layers drawn from the posterior, by its covariances' inverse Cholesky factors."""
    found = []
    for _ in range(samples):
        noise = torch.randn(posterior.mean.shape, generator=generator, dtype=torch.float64)
        rows = []
        for mean, precision, own in zip(posterior.mean, posterior.precision, noise, strict=True):
            rows.append(mean + torch.linalg.inv(torch.linalg.cholesky(precision)).T @ own)
        found.append(torch.stack(rows))
    return found


def sampled_moments(task, layers, example, target):
    """Of the gradient of the task's loss of one example, by autograd for every drawn layer."""
    gradients = []
    for layer in layers:
        leaf = example.clone().requires_grad_()
        outputs = layer @ torch.cat([leaf, torch.ones(1, dtype=torch.float64)])
        loss = task.loss(outputs.view(1, -1, *(1,) * (2 if task.is_dense else 0)), target)
        gradients.append(torch.autograd.grad(loss, leaf)[0])
    stacked = torch.stack(gradients)
    return stacked.mean(0), stacked.var(0)


def aggregated(means, variances, labelled, factors, power, least):
    """Of one example: by task moments and factors."""
    result = torch.zeros_like(means[0])
    number = sum(labelled)
    for d in range(len(result)):
        precisions = [
            float(own[d].clamp_min(least)) ** -power if has else 0.0
            for own, has in zip(variances, labelled, strict=True)
        ]
        for mean, precision, factor in zip(means, precisions, factors, strict=True):
            if precision:
                result[d] += number * precision / sum(precisions) * factor * mean[d]
    return result


def enlarged(features, size):
    """Features at every pixel, (examples, channels)."""
    maps = F.interpolate(features, size=size, mode="bilinear", align_corners=False)
    return torch.stack(
        [maps[i, :, r, c] for i in range(len(maps)) for r in range(size[0]) for c in range(size[1])]
    )
