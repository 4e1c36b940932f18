import sys

import pytest
import torch

from lomt.errors import LomtError, UnknownNameError
from lomt.grouping.cluster import average_density, cluster, round_solution, solve_sdp


def planted(count, groups, noise=0.1, seed=0):
    """An affinity with groups of random members, and their labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count)[torch.randperm(count, generator=generator)] % groups
    matrix = 0.3 * (labels[:, None] == labels).double()
    return matrix + noise * torch.randn(count, count, generator=generator).double(), labels


def assert_found(grouping, tasks, labels):
    expected = {
        frozenset(t for t, own in zip(tasks, labels.tolist(), strict=True) if own == k)
        for k in set(labels.tolist())
    }
    assert {frozenset(group) for group in grouping.groups} == expected


@pytest.mark.parametrize("method", ["sdp", "spectral"])
@pytest.mark.parametrize(("count", "groups"), [(10, 3), (24, 4)])
def test_planted_groups_are_found(method, count, groups):
    pytest.importorskip("cvxpy")
    matrix, labels = planted(count, groups)
    tasks = [f"t{index}" for index in range(count)]
    found = cluster(tasks, matrix, groups=groups, method=method)

    assert_found(found, tasks, labels)
    assert found.facts["status"] == "optimal"
    assert found.facts["density"] == pytest.approx(average_density((matrix + matrix.T) / 2, labels))


@pytest.mark.slow
@pytest.mark.parametrize(("count", "groups"), [(50, 5), (200, 10)])
def test_many_planted_groups_are_found(count, groups):
    pytest.importorskip("cvxpy")
    matrix, labels = planted(count, groups)
    tasks = [f"t{index}" for index in range(count)]

    assert_found(cluster(tasks, matrix, groups=groups), tasks, labels)


def test_solution_keeps_the_rules_and_bounds_every_grouping():
    pytest.importorskip("cvxpy")
    matrix, labels = planted(9, 3, noise=0.3)
    matrix = (matrix + matrix.T) / 2
    x, facts = solve_sdp(matrix, groups=3)

    assert facts == {"solver": "CLARABEL", "status": "optimal"}
    assert x.sum(1).tolist() == pytest.approx([1] * 9, abs=1e-5)
    assert float(x.trace()) == pytest.approx(3, abs=1e-5)
    assert float(x.min()) > -1e-6
    assert float(torch.linalg.eigvalsh(x).min()) > -1e-6
    assert float((matrix * x).sum()) >= average_density(matrix, labels) - 1e-5


def test_a_penalty_finds_the_number_of_groups():
    pytest.importorskip("cvxpy")
    matrix, labels = planted(12, 3, noise=0.02)
    tasks = [f"t{index}" for index in range(12)]

    assert_found(cluster(tasks, matrix, penalty=0.5), tasks, labels)
    assert len(cluster(tasks, matrix, penalty=10.0).groups) == 1


def test_rows_may_be_standardised():
    pytest.importorskip("cvxpy")
    matrix, labels = planted(10, 2, noise=0.02)
    matrix[3] *= 1000
    tasks = [f"t{index}" for index in range(10)]

    assert_found(cluster(tasks, matrix, groups=2, standardise=True), tasks, labels)


def test_rounding_by_hand():
    x = torch.tensor([[0.5, 0.0, 0.5], [0.0, 1.0, 0.0], [0.5, 0.0, 0.5]], dtype=torch.float64)

    assert round_solution(x).tolist() == [0, 1, 0]


def test_one_group_needs_no_solver():
    assert cluster("ab", torch.eye(2, dtype=torch.float64), groups=1, method="sdp").groups == (("a", "b"),)


def test_without_the_solver_the_way_out_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "cvxpy", None)
    with pytest.raises(LomtError, match=r"Expected cvxpy to be installed.*lomt\[grouping\].*spectral"):
        solve_sdp(torch.eye(3, dtype=torch.float64), groups=2)


def test_a_solver_that_fails_is_not_believed():
    pytest.importorskip("cvxpy")
    with pytest.raises(
        LomtError, match="to find the optimum of the grouping of 3 tasks, but it says `infeasible"
    ):
        solve_sdp(torch.eye(3, dtype=torch.float64), groups=5)


def test_arguments_are_checked():
    matrix = torch.eye(3, dtype=torch.float64)
    with pytest.raises(UnknownNameError, match="Unknown clustering `sdq`, did you mean `sdp`"):
        cluster("abc", matrix, groups=2, method="sdq")
    with pytest.raises(ValueError, match="just one of `groups` and `penalty`, but got 2 and 1.0"):
        cluster("abc", matrix, groups=2, penalty=1.0)
    with pytest.raises(ValueError, match="`groups` to be from 1 to 3, the number of tasks, but got 4"):
        cluster("abc", matrix, groups=4)
    with pytest.raises(ValueError, match="`groups` to be given for spectral clustering"):
        cluster("abc", matrix, penalty=1.0, method="spectral")
