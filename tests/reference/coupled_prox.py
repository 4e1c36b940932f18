"""Slow, obvious forms of what coupled groups do: one channel at a time, from its slices."""

import torch


def channels(structure, model):
    """Yield for every prunable channel its name, its number and a list of (parameter, dimension, positions)."""
    parameters = dict(model.named_parameters())
    for coupled in structure.prunable:
        for channel in range(coupled.count):
            yield (
                coupled.name,
                channel,
                [
                    (parameters[part.tensor], part.dim, (part.owner == channel).nonzero().flatten())
                    for part in coupled.slices
                    if part.role == "consumer"
                ],
            )


def entries(slices):
    """Return all entries of a channel in one vector."""
    return torch.cat([p.detach().index_select(dim, where).flatten() for p, dim, where in slices])


@torch.no_grad()
def scale(slices, factor):
    """Multiply a channel's entries."""
    for parameter, dim, where in slices:
        part = parameter.index_select(dim, where) * factor
        parameter.index_copy_(dim, where, part)


def shrink(structure, model, tau):
    """Soft-threshold every channel with tau times the root of its size."""
    for _, _, slices in channels(structure, model):
        values = entries(slices)
        norm = values.norm()
        limit = tau * len(values) ** 0.5
        scale(slices, float(1 - limit / norm) if norm > limit else 0.0)


def nested_objective(x, w, nested, tau):
    """Return the objective of the proximal operator of nested groups.

    Args:
        x: Candidate.
        w: Where it started.
        nested: Index lists, inner and outer groups alike.
        tau: Strength before the roots of the sizes.
    """
    penalty = sum(len(group) ** 0.5 * x[group].norm() for group in nested)
    return 0.5 * (x - w).square().sum() + tau * penalty
