r"""How much each task belongs to each group, where a method says more than which.

.. math:: u_{tk} = \Big( \sum_j \big( d_{tk} / d_{tj} \big)^{2 / (m - 1)} \Big)^{-1}

is the fuzzy membership of a task at distance :math:`d_{tk}` from the centre of group :math:`k`, with the fuzziness
:math:`m > 1`: near 1 every task is in one group, for large :math:`m` in all alike.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from lomt.grouping.cluster import Grouping

__all__ = ["Membership", "fuzzy_membership"]


@dataclass(frozen=True)
class Membership:
    """The matrix and what it was made of.

    Args:
        tasks: Names, in the order of rows.
        matrix: Row: the task; column: the group; from 0 to 1, every row sums to 1.
        method: Where it comes from.
        facts: Plain JSON values about how.
    """

    tasks: tuple[str, ...]
    matrix: Float64[Tensor, "tasks groups"]
    method: str
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def grouping(self) -> Grouping:
        """Every task in the group it belongs to most; groups that no task likes best are left out."""
        found: dict[int, list[str]] = {}
        for task, group in zip(self.tasks, self.matrix.argmax(1).tolist(), strict=True):
            found.setdefault(group, []).append(task)
        facts = {"asked_groups": self.matrix.shape[1], "columns": list(found)}
        return Grouping(tuple(tuple(group) for group in found.values()), self.method, facts)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "method": self.method,
            "tasks": list(self.tasks),
            "membership": self.matrix.tolist(),
            **self.facts,
        }

    def __str__(self) -> str:
        width = max(map(len, self.tasks))
        rows = [
            f"{task:<{width}}  " + " ".join(f"{value:.4f}" for value in row)
            for task, row in zip(self.tasks, self.matrix.tolist(), strict=True)
        ]
        return "\n".join([f"{self.method}: how much each task belongs to each group", *rows])


def fuzzy_membership(
    rows: Float64[Tensor, "tasks columns"],
    centres: Float64[Tensor, "groups columns"],
    fuzziness: float = 1.07,
) -> Float64[Tensor, "tasks groups"]:
    """Return how much rows belong to centres; a row on a centre belongs to it alone.

    Args:
        rows: One a task.
        centres: One a group.
        fuzziness: :math:`m`.

    Raises:
        ValueError: If ``fuzziness`` is not above 1.

    References:
        Bezdek, "Pattern Recognition with Fuzzy Objective Function Algorithms", 1981,
        https://doi.org/10.1007/978-1-4757-0450-1, theorem 11.1.
    """
    if not fuzziness > 1:
        raise ValueError(f"Expected `fuzziness` to be above 1, but got {fuzziness}.")
    distances = torch.cdist(rows, centres, compute_mode="donot_use_mm_for_euclid_dist")
    # By logarithms: the power is 29 for the published fuzziness.
    logits = -2 / (fuzziness - 1) * distances.clamp_min(1e-300).log()
    return logits.softmax(1)
