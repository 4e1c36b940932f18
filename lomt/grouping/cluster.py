"""From an affinity matrix to groups of tasks that share a network."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from lomt.errors import LomtError, UnknownNameError
from lomt.grouping.k_means import k_means
from lomt.grouping.network_selection import select_networks

__all__ = [
    "CLUSTERINGS",
    "Grouping",
    "average_density",
    "cluster",
    "require_cvxpy",
    "round_solution",
    "solve_sdp",
]

_LARGEST_FOR_CLARABEL = (
    60  # its KKT system has n(n+1)/2 dense rows; at 80 tasks it takes 35 times as long as SCS
)
LARGEST_FOR_SDP = 200
"""Beyond so many tasks ``"auto"`` takes the spectral method."""


@dataclass(frozen=True)
class Grouping:
    """Which tasks go together.

    Args:
        groups: Names of tasks; every task is in one group, whose network serves it.
        method: How they were found.
        facts: Plain JSON values: the solver, its status, what was asked for.
        helpers: For every group the tasks that its network is trained on as well, while another one serves them;
            empty where there are none at all.
    """

    groups: tuple[tuple[str, ...], ...]
    method: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    helpers: tuple[tuple[str, ...], ...] = ()

    @property
    def networks(self) -> tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]:
        """Of every network the tasks it serves and its helpers."""
        return tuple(zip(self.groups, self.helpers or ((),) * len(self.groups), strict=True))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        groups, helpers = ([list(own) for own in part] for part in (self.groups, self.helpers))
        return {"method": self.method, **self.facts, "groups": groups, "helpers": helpers}


def cluster(
    tasks: Sequence[str],
    affinity: Float64[Tensor, "tasks tasks"],
    *,
    groups: int | None = None,
    penalty: float | None = None,
    method: str = "auto",
    standardise: bool = False,
    seed: int = 0,
    helpers: bool = True,
    alone: Float64[Tensor, " tasks"] | None = None,
) -> Grouping:
    """Group tasks so that affinity within groups is high.

    Args:
        tasks: Names, in the order of rows.
        affinity: Larger is better; the mean of both directions is taken, except by ``"tag"``.
        groups: How many; exact for the spectral method, the most for ``"tag"``, the relaxation's trace for the SDP,
            whose rounding may find another number and then says so.
        penalty: In place of ``groups``: what every group more has to gain in average density (SDP).
        method: A key of `CLUSTERINGS`, ``"tag"`` for `select_networks`, or ``"auto"``: the SDP up to 200 tasks,
            spectral beyond.
        standardise: Whether each row is first reduced to mean 0 and standard deviation 1.
        seed: Of the spectral method's start.
        helpers: Whether a network may be trained on tasks that another one serves (``"tag"``).
        alone: What a task by itself gains, in the unit of ``affinity``; without it no network has one task
            (``"tag"``).

    Raises:
        UnknownNameError: If there is no such method.
        ValueError: If not just one of ``groups`` and ``penalty`` is given, ``groups`` does not fit the tasks, or
            there are too many tasks for ``"tag"``.
        LomtError: If the solver does not find the optimum.
    """
    if method == "auto":
        method = "sdp" if len(tasks) <= LARGEST_FOR_SDP else "spectral"
    if method not in (*CLUSTERINGS, "tag"):
        raise UnknownNameError("clustering", method, (*CLUSTERINGS, "tag"))
    if (groups is None) == (penalty is None):
        raise ValueError(f"Expected just one of `groups` and `penalty`, but got {groups} and {penalty}.")
    if groups is not None and not 1 <= groups <= len(tasks):
        raise ValueError(
            f"Expected `groups` to be from 1 to {len(tasks)}, the number of tasks, but got {groups}."
        )
    matrix = affinity.double()
    if standardise:
        means, spreads = matrix.mean(1, keepdim=True), matrix.std(1, keepdim=True).clamp_min(1e-12)
        matrix = (matrix - means) / spreads
        alone = None if alone is None else (alone - means[:, 0]) / spreads[:, 0]
    if method == "tag":
        return _tag(tasks, matrix, groups, alone, helpers)
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


def require_cvxpy() -> Any:
    """Return the package that states the program; its names are made at run time.

    Raises:
        LomtError: If it is not installed.
    """
    try:
        import cvxpy
    except ImportError as error:
        raise LomtError(
            "Expected cvxpy to be installed, because tasks are grouped by a semidefinite program. Install it with "
            "`pip install lomt[grouping]`, or choose `clustering: spectral`."
        ) from error
    return cvxpy


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
    cp: Any = require_cvxpy()
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


def _tag(
    tasks: Sequence[str], matrix: Tensor, groups: int | None, alone: Tensor | None, helpers: bool
) -> Grouping:
    if groups is None:
        raise ValueError("Expected `groups` to be given for TAG's selection, but got only `penalty`.")
    found = select_networks(matrix, groups, alone=alone, helpers=helpers)
    served, helping = (
        tuple(tuple(tasks[index] for index in own) for own in part) for part in (found.served, found.helpers)
    )
    facts = {"asked_groups": groups, "total": found.total, "status": "optimal"}
    return Grouping(served, "tag", facts, helping if any(helping) else ())


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
    return k_means(rows, groups, seed)[0], {"solver": "eigenvectors and k-means", "status": "optimal"}


CLUSTERINGS: Mapping[
    str, Callable[[Tensor, int | None, float | None, int], tuple[Tensor, dict[str, Any]]]
] = {"sdp": _sdp, "spectral": _spectral}
