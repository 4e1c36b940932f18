r"""How much each task gains from being trained with each other one, as a matrix.

.. math:: T_{ij} = \operatorname{mean}_{S \ni i, j} \; \Big(1 - \frac{f_i(S)}{f_i}\Big)

where :math:`f_i(S)` is the loss of task :math:`i` after training on the subset :math:`S` and :math:`f_i` the one
before:
larger is better. With all pairs as subsets it is the pairwise affinity, with sampled larger ones the higher-order one.
"""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

__all__ = ["Affinity", "affinity_of_subsets", "relative_distance", "subsets_for"]

Losses = Mapping[str, float]


@dataclass(frozen=True)
class Affinity:
    """The matrix and what it was made of.

    Args:
        tasks: Names, in the order of rows and columns.
        matrix: Row: the task that gains; column: the one that it is trained with. The diagonal is a task by itself.
        method: What was measured.
        facts: Plain JSON values about how.
    """

    tasks: tuple[str, ...]
    matrix: Float64[Tensor, "tasks tasks"]
    method: str
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def symmetric(self) -> Float64[Tensor, "tasks tasks"]:
        """The mean of both directions, which clustering sees."""
        return (self.matrix + self.matrix.T) / 2

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "method": self.method,
            "tasks": list(self.tasks),
            "affinity": self.matrix.tolist(),
            **self.facts,
        }

    def __str__(self) -> str:
        width = max(map(len, self.tasks))
        rows = [
            f"{task:<{width}}  " + " ".join(f"{value:+.4f}" for value in row)
            for task, row in zip(self.tasks, self.matrix.tolist(), strict=True)
        ]
        return "\n".join([f"{self.method}: gain of each row's task with each column's", *rows])


def subsets_for(
    tasks: Sequence[str], *, size: int = 2, count: int | None = None, seed: int = 0
) -> list[tuple[str, ...]]:
    """Return the subsets from which an affinity follows.

    Args:
        tasks: Names.
        size: Of each subset. 2 gives all pairs and every task by itself.
        count: How many larger subsets to sample; pairs that none of them holds get one more subset each. By default
            as many as hold every pair about five times.
        seed: Of the sampling.

    Raises:
        ValueError: If ``size`` is not from 2 to the number of tasks.
    """
    if not 2 <= size <= len(tasks):
        raise ValueError(
            f"Expected `size` of the subsets to be from 2 to {len(tasks)}, the number of tasks, but got {size}."
        )
    if size == 2:
        return [*((task,) for task in tasks), *combinations(tasks, 2)]
    chance = random.Random(seed)
    pairs_each, pairs = size * (size - 1) / 2, len(tasks) * (len(tasks) - 1) / 2
    drawn = [
        tuple(chance.sample(list(tasks), size)) for _ in range(count or round(5 * pairs / pairs_each) + 1)
    ]
    seen = {frozenset(pair) for subset in drawn for pair in combinations(subset, 2)}
    for pair in combinations(tasks, 2):
        if frozenset(pair) not in seen:
            rest = [task for task in tasks if task not in pair]
            subset = (*pair, *chance.sample(rest, size - 2))
            drawn.append(subset)
            seen |= {frozenset(own) for own in combinations(subset, 2)}
    place = {task: index for index, task in enumerate(tasks)}
    return [tuple(sorted(subset, key=place.__getitem__)) for subset in drawn]


def affinity_of_subsets(
    tasks: Sequence[str],
    subsets: Iterable[Sequence[str]],
    losses_after: Callable[[Sequence[str]], Losses],
    losses_before: Losses,
    *,
    method: str,
    facts: Mapping[str, Any] | None = None,
) -> Affinity:
    """Return the affinity that subsets of tasks show.

    Args:
        tasks: Names.
        subsets: Every pair of tasks is in at least one.
        losses_after: From a subset to its tasks' losses after training on it, really or by an estimate.
        losses_before: Every task's loss without.
        method: What `losses_after` does.
        facts: Plain JSON values to keep.

    Raises:
        ValueError: If a pair is in no subset.
    """
    place = {task: row for row, task in enumerate(tasks)}
    sums, counts = (torch.zeros(len(tasks), len(tasks), dtype=torch.float64) for _ in range(2))
    records = []
    for subset in subsets:
        losses = losses_after(subset)
        records.append({"tasks": list(subset), "losses": {task: losses[task] for task in subset}})
        columns = [place[task] for task in subset]
        for task in subset:
            gain = 1 - losses[task] / losses_before[task]
            # A pair says nothing of a task by itself; only the task alone, or larger subsets, do.
            others = [c for c in columns if len(subset) != 2 or c != place[task]]
            sums[place[task], others] += gain
            counts[place[task], others] += 1
    # Without a subset for it the diagonal is the row's mean, which says nothing for or against.
    means = sums.sum(1) / counts.sum(1).clamp_min(1)
    for row in range(len(tasks)):
        if counts[row, row] == 0:
            sums[row, row], counts[row, row] = means[row], 1
    if not bool(counts.all()):
        first, second = (tasks[i] for i in (counts == 0).nonzero()[0].tolist())
        raise ValueError(
            f"Expected every pair of tasks to be in a subset, but `{first}` and `{second}` are in none."
        )
    return Affinity(tuple(tasks), sums / counts, method, {**(facts or {}), "subsets": records})


def relative_distance(
    estimated: Float64[Tensor, "tasks tasks"], true: Float64[Tensor, "tasks tasks"]
) -> float:
    r"""Return :math:`\lVert \hat T - T \rVert_F^2 / \lVert T \rVert_F^2` over pairs of different tasks.

    Args:
        estimated: Losses or gains of each row's task with each column's.
        true: The same, by training.
    """
    apart = ~torch.eye(len(true), dtype=torch.bool)
    difference = (estimated - true)[apart]
    return float(difference.square().sum() / true[apart].square().sum())
