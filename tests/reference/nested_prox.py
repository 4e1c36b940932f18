"""How far a point is from minimising the nested group lasso's proximal objective, column by column."""

import numpy as np


def nested_residual(x, w, inner, outer):
    """Return the violation of optimality of `x` for 1/2 |x - w|^2 + inner sum_c |x_c| + outer |x|.

    Zero is a subgradient: for x != 0 the gradient vanishes in every living column c and the pull of every dead one is
    at most `inner`; for x = 0 what the columns leave of the pull is at most `outer`.
    """
    columns = range(x.shape[1])
    if not x.any():
        left = [max(0.0, np.linalg.norm(w[:, c]) - inner) for c in columns]
        return max(0.0, np.linalg.norm(left) - outer)
    worst = 0.0
    for c in columns:
        if x[:, c].any():
            pull = x[:, c] - w[:, c] + inner * x[:, c] / np.linalg.norm(x[:, c])
            worst = max(worst, np.linalg.norm(pull + outer * x[:, c] / np.linalg.norm(x)))
        else:
            worst = max(worst, np.linalg.norm(w[:, c]) - inner)
    return worst
