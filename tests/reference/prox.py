"""The proximal operators one group at a time, by loops and bisection; slow and obvious."""

import math

import numpy as np


def groups_of(weight, axis, conv_groups=1):
    """Return for every group, in order, the flat places of its entries in a weight of (out, in, *kernel)."""
    shape = weight.shape
    outs_each = shape[0] // conv_groups
    count = shape[0] if axis == "out" else shape[1] * conv_groups
    groups = [[] for _ in range(count)]
    for place, index in enumerate(np.ndindex(*shape)):
        out, inner = index[0], index[1]
        channel = out if axis == "out" else (out // outs_each) * shape[1] + inner
        groups[channel].append(place)
    return groups


def norm(values):
    """Return the Euclidean norm without overflow or underflow."""
    return math.hypot(*values)


def euclidean_group(w, tau):
    """Return argmin 1/2 |x - w|^2 + tau |x|."""
    length = norm(w)
    return np.zeros_like(w) if length <= tau else w * ((length - tau) / length)


def adam_group(w, d, tau):
    """Return argmin 1/2 sum d (x - w)^2 + tau |x|, its norm found by bisection."""
    if norm(d * w) <= tau:
        return np.zeros_like(w)
    low, high = math.log(1e-300), math.log(norm(w))
    for _ in range(200):
        middle = (low + high) / 2
        x = w / (1 + (tau / math.exp(middle)) / d)
        if norm(x) > math.exp(middle):
            low = middle
        else:
            high = middle
    return w / (1 + (tau / math.exp(high)) / d)


def objective(x, w, d, tau):
    """Return what both operators minimise; `d` is one in the Euclidean metric."""
    return 0.5 * float(np.sum(d * (x - w) ** 2)) + tau * norm(x)


def residual(x, w, d, tau):
    """Return how far `x` is from optimal: the optimality condition's size relative to |d w|, its largest term.

    For x != 0 the condition is d (x - w) + tau x / |x| = 0, for x = 0 it is |d w| <= tau.
    """
    scale = norm(d * w)
    if scale == 0:
        return norm(x)
    if not np.any(x):
        return max(0.0, scale - tau) / scale
    return norm(d * (x - w) + tau * (x / norm(x))) / scale
