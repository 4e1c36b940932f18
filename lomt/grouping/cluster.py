"""From an affinity matrix to groups of tasks that share a network."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from lomt.errors import LomtError, UnknownNameError

__all__ = ["CLUSTERINGS", "Grouping", "average_density", "cluster", "round_solution", "solve_sdp"]

_LARGEST_FOR_CLARABEL = (
    60  # its KKT system has n(n+1)/2 dense rows; at 80 tasks it takes 35 times as long as SCS
)
LARGEST_FOR_SDP = 200
"""Beyond so many tasks ``"auto"`` takes the spectral method."""


@dataclass(frozen=True)
class Grouping:
    """Which tasks go together.

    Args:
        groups: Names of tasks; every task is in one group.
        method: How they were found.
        facts: Plain JSON values: the solver, its status, what was asked for.
    """

    groups: tuple[tuple[str, ...], ...]
    method: str
    facts: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"method": self.method, **self.facts, "groups": [list(group) for group in self.groups]}


def cluster(
    tasks: Sequence[str],
    affinity: Float64[Tensor, "tasks tasks"],
    *,
    groups: int | None = None,
    penalty: float | None = None,
    method: str = "auto",
    standardise: bool = False,
    seed: int = 0,
) -> Grouping:
    """Group tasks so that affinity within groups is high.

    Args:
        tasks: Names, in the order of rows.
        affinity: Larger is better; the mean of both directions is taken.
        groups: How many; exact for the spectral method, the relaxation's trace for the SDP, whose rounding may find
            another number and then says so.
        penalty: In place of ``groups``: what every group more has to gain in average density (SDP).
        method: A key of `CLUSTERINGS`, or ``"auto"``: the SDP up to 200 tasks, spectral beyond.
        standardise: Whether each row is first reduced to mean 0 and standard deviation 1.
        seed: Of the spectral method's start.

    Raises:
        UnknownNameError: If there is no such method.
        ValueError: If not just one of ``groups`` and ``penalty`` is given, or ``groups`` does not fit the tasks.
        LomtError: If the solver does not find the optimum.
    """
    if method == "auto":
        method = "sdp" if len(tasks) <= LARGEST_FOR_SDP else "spectral"
    if method not in CLUSTERINGS:
        raise UnknownNameError("clustering", method, CLUSTERINGS)
    if (groups is None) == (penalty is None):
        raise ValueError(f"Expected just one of `groups` and `penalty`, but got {groups} and {penalty}.")
    if groups is not None and not 1 <= groups <= len(tasks):
        raise ValueError(
            f"Expected `groups` to be from 1 to {len(tasks)}, the number of tasks, but got {groups}."
        )
    matrix = affinity.double()
    if standardise:
        spread = matrix.std(1, keepdim=True).clamp_min(1e-12)
        matrix = (matrix - matrix.mean(1, keepdim=True)) / spread
    matrix = (matrix + matrix.T) / 2
    labels, facts = CLUSTERINGS[method](matrix, groups, penalty, seed)
    found: dict[int, list[str]] = {}
    for task, label in zip(tasks, labels.tolist(), strict=True):
        found.setdefault(label, []).append(task)
    facts = {"asked_groups": groups, "penalty": penalty, "density": average_density(matrix, labels), **facts}
    return Grouping(tuple(tuple(group) for group in found.values()), method, facts)


def average_density(matrix: Tensor, labels: Int64[Tensor, " tasks"]) -> float:
    r"""Return :math:`\sum_k v_k^\top T v_k / v_k^\top v_k`, which the SDP relaxes."""
    total = 0.0
    for label in labels.unique():
        inside = labels == label
        total += float(matrix[inside][:, inside].sum() / inside.sum())
    return total


def solve_sdp(
    matrix: Float64[Tensor, "tasks tasks"], *, groups: int | None = None, penalty: float | None = None
) -> tuple[Float64[Tensor, "tasks tasks"], dict[str, Any]]:
    r"""Solve the relaxation of the largest sum of average densities.

    .. math:: \max_X \langle T, X \rangle \;(- \lambda \operatorname{tr} X) \quad
        \text{s.t. } X \succeq 0,\; X \ge 0,\; X 1 = 1,\; (\operatorname{tr} X = k)

    Since :math:`X 1 = 1`, adding a constant to all affinities changes nothing.

    Args:
        matrix: :math:`T`, symmetric.
        groups: :math:`k`; the trace is free without it.
        penalty: :math:`\lambda`, where ``groups`` is not given.

    Returns:
        :math:`X` and the solver's name and status.

    Raises:
        LomtError: If cvxpy is not installed or the solver does not reach the optimum.

    References:
        Li, Sharma and Zhang, 2024, https://arxiv.org/abs/2409.06091, section 4; Peng and Wei, "Approximating
        k-means-type clustering via semidefinite programming", 2007, https://doi.org/10.1137/050641983.
    """
    try:
        import cvxpy
    except ImportError as error:
        raise LomtError(
            "Expected cvxpy to be installed, because tasks are grouped by a semidefinite program. Install it with "
            "`pip install lomt[grouping]`, or choose `clustering: spectral`."
        ) from error
    cp: Any = cvxpy  # its names are made at run time
    count = len(matrix)
    scale = float(matrix.abs().max()) or 1.0
    x = cp.Variable((count, count), PSD=True)
    objective = cp.trace((matrix / scale).numpy() @ x)
    rules = [x >= 0, cp.sum(x, axis=1) == 1]
    if groups is not None:
        rules.append(cp.trace(x) == groups)
    else:
        objective = objective - (penalty or 0.0) / scale * cp.trace(x)
    solver = "CLARABEL" if count <= _LARGEST_FOR_CLARABEL else "SCS"
    problem = cp.Problem(cp.Maximize(objective), rules)
    problem.solve(solver=solver)
    if problem.status != "optimal" or x.value is None:
        raise LomtError(
            f"Expected {solver} to find the optimum of the grouping of {count} tasks, but it says "
            f"`{problem.status}`. Check the affinities, or choose `clustering: spectral`."
        )
    return torch.from_numpy(np.asarray(x.value)), {"solver": solver, "status": problem.status}


def round_solution(solution: Float64[Tensor, "tasks tasks"]) -> Int64[Tensor, " tasks"]:
    r"""Read groups off: row by row, a task not yet in a group takes along those with :math:`X_{ij} > 1/n`.

    An exact solution has :math:`X_{ij} = 1/|C|` within a group and 0 elsewhere.
    """
    count = len(solution)
    labels = torch.full((count,), -1)
    for row in range(count):
        if labels[row] >= 0:
            continue
        same = (solution[row] > 1 / count) & (labels < 0)
        same[row] = True
        labels[same] = labels.max() + 1
    return labels


def _sdp(
    matrix: Tensor, groups: int | None, penalty: float | None, seed: int
) -> tuple[Tensor, dict[str, Any]]:
    if groups == 1:  # just one feasible point, on which rounding errors would decide
        return torch.zeros(len(matrix), dtype=torch.long), {"solver": None, "status": "one group"}
    solution, facts = solve_sdp(matrix, groups=groups, penalty=penalty)
    return round_solution(solution), facts


def _spectral(
    matrix: Tensor, groups: int | None, penalty: float | None, seed: int
) -> tuple[Tensor, dict[str, Any]]:
    """Cluster the rows of the leading eigenvectors of the normalised affinity.

    References:
        Ng, Jordan and Weiss, "On Spectral Clustering: Analysis and an algorithm", 2001,
        https://papers.nips.cc/paper/2092.
    """
    if groups is None:
        raise ValueError("Expected `groups` to be given for spectral clustering, but got only `penalty`.")
    similarity = matrix - matrix.min()
    degrees = similarity.sum(1).clamp_min(1e-12).rsqrt()
    vectors = torch.linalg.eigh(degrees[:, None] * similarity * degrees)[1][:, -groups:]
    rows = vectors / vectors.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return _k_means(rows, groups, seed), {"solver": "eigenvectors and k-means", "status": "optimal"}


def _k_means(rows: Tensor, count: int, seed: int, restarts: int = 10) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    best, best_cost = torch.zeros(len(rows), dtype=torch.long), float("inf")
    for _ in range(restarts):
        centres = _far_apart(rows, count, generator)
        for _ in range(100):
            labels = torch.cdist(rows, centres).argmin(1)
            moved = torch.stack(
                [rows[labels == k].mean(0) if bool((labels == k).any()) else centres[k] for k in range(count)]
            )
            if torch.equal(moved, centres):
                break
            centres = moved
        cost = float(torch.cdist(rows, centres).amin(1).square().sum())
        if cost < best_cost:
            best, best_cost = labels, cost
    return best


def _far_apart(rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Choose starting centres, each likelier the farther it is from those before (k-means++)."""
    chosen = [int(torch.randint(len(rows), (1,), generator=generator))]
    while len(chosen) < count:
        distances = torch.cdist(rows, rows[chosen]).amin(1).square()
        weights = distances if float(distances.sum()) > 0 else torch.ones_like(distances)
        chosen.append(int(torch.multinomial(weights, 1, generator=generator)))
    return rows[chosen]


CLUSTERINGS: Mapping[
    str, Callable[[Tensor, int | None, float | None, int], tuple[Tensor, dict[str, Any]]]
] = {"sdp": _sdp, "spectral": _spectral}
