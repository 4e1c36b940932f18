"""Scores of channels, one channel and one tensor at a time."""

import math

import torch


def entries(model, coupled, channel, roles):
    """Yield the entries of every tensor that belong to a channel, one vector a slice."""
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    for part in coupled.slices:
        if part.role in roles:
            places = (part.owner == channel).nonzero().flatten()
            yield part.tensor, part.dim, places, tensors[part.tensor].detach().index_select(part.dim, places)


def magnitude(model, structure):
    scores = {}
    for coupled in structure.prunable:
        values = []
        for channel in range(coupled.count):
            found = [v for *_, v in entries(model, coupled, channel, ("producer", "consumer"))]
            flat = torch.cat([v.flatten() for v in found]).double()
            values.append(float(flat.norm()) / math.sqrt(len(flat)))
        mean = sum(values) / len(values)
        scores[coupled.name] = torch.tensor(values, dtype=torch.float64) / mean
    return scores


def taylor(model, structure, losses):
    """Return the mean over losses of the sum of |w dL/dw|, by a plain backward pass each."""
    scores = {c.name: torch.zeros(c.count, dtype=torch.float64) for c in structure.prunable}
    for loss in losses:
        model.zero_grad()
        loss.backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        for coupled in structure.prunable:
            for channel in range(coupled.count):
                for tensor, dim, places, values in entries(
                    model, coupled, channel, ("producer", "consumer", "scale")
                ):
                    if tensor in gradients:
                        gradient = gradients[tensor].index_select(dim, places)
                        scores[coupled.name][channel] += (values * gradient).abs().sum() / len(losses)
    model.zero_grad()
    return scores


def kept_by_union(tasks, fraction):
    """Return, as DiSparse does, what is in the top fraction of any task's channels."""
    kept = set()
    for scores in tasks.values():
        flat = [(float(v), name, c) for name, values in scores.items() for c, v in enumerate(values)]
        flat.sort(reverse=True)
        kept |= {(name, c) for _, name, c in flat[: round(fraction * len(flat))]}
    return kept
