"""Least squares with coefficients that are not negative, for a handful of features."""

from itertools import combinations

import numpy as np
from jaxtyping import Float

__all__ = ["nonnegative_least_squares"]


def nonnegative_least_squares(
    features: Float[np.ndarray, "samples features"], target: Float[np.ndarray, " samples"]
) -> Float[np.ndarray, " features"]:
    r"""Minimise :math:`\lVert A x - b \rVert_2` subject to :math:`x \ge 0`.

    At the minimum the positive coefficients solve the plain problem in their features alone, so that trying every
    set of features finds it exactly. That is cheap for the few features of a latency model.

    Args:
        features: :math:`A`; at most about ten features.
        target: :math:`b`.

    Example:
        >>> import numpy as np
        >>> nonnegative_least_squares(np.array([[1.0, 1.0], [1.0, 2.0]]), np.array([2.0, 1.0]))
        array([1.5, 0. ])
    """
    count = features.shape[1]
    best, least = np.zeros(count), float(np.sum(target**2))
    for size in range(1, count + 1):
        for chosen in combinations(range(count), size):
            part = features[:, chosen]
            solution = np.linalg.lstsq(part, target, rcond=None)[0]
            loss = float(np.sum((part @ solution - target) ** 2))
            if solution.min() >= 0 and loss < least * (1 - 1e-12):
                best, least = np.zeros(count), loss
                best[list(chosen)] = solution
    return best
