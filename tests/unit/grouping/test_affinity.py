from itertools import combinations

import pytest
import torch

from lomt.grouping import Affinity, affinity_of_subsets, relative_distance, subsets_for

LOSSES = {("a",): {"a": 1.0}, ("b",): {"b": 1.0}, ("a", "b"): {"a": 0.5, "b": 3.0}}


def test_pairs_by_hand():
    found = affinity_of_subsets(("a", "b"), LOSSES, LOSSES.__getitem__, {"a": 2.0, "b": 2.0}, method="true")

    assert found.matrix.tolist() == [[0.5, 0.75], [-0.5, 0.5]]
    assert found.symmetric.tolist() == [[0.5, 0.125], [0.125, 0.5]]
    assert found.to_dict()["subsets"][2] == {"tasks": ["a", "b"], "losses": {"a": 0.5, "b": 3.0}}
    assert "+0.7500" in str(found)


def test_larger_subsets_are_averaged():
    subsets = [("a", "b", "c"), ("a", "b", "d"), ("c", "d", "a"), ("b", "c", "d")]
    losses = {"a": 0.5, "b": 0.5, "c": 0.5, "d": 0.5}
    found = affinity_of_subsets(
        "abcd",
        subsets,
        lambda own: {**losses, "a": 0.1 * len(own) if "b" in own else 0.9},
        dict.fromkeys("abcd", 1.0),
        method="m",
    )

    assert found.matrix[0].tolist() == pytest.approx([(0.7 + 0.7 + 0.1) / 3, 0.7, 0.4, 0.4])


def test_a_pair_without_subset_is_named():
    with pytest.raises(ValueError, match="`a` and `c` are in none"):
        affinity_of_subsets(
            "abc", ["ab", "bc"], lambda own: dict.fromkeys(own, 1.0), dict.fromkeys("abc", 1.0), method="m"
        )


@pytest.mark.parametrize("size", [2, 3, 5, 8])
def test_subsets_hold_every_pair(size):
    tasks = [f"t{index}" for index in range(8)]
    subsets = subsets_for(tasks, size=size, count=2 if size > 2 else None, seed=1)
    held = {frozenset(pair) for subset in subsets for pair in combinations(subset, 2)}

    assert held == {frozenset(pair) for pair in combinations(tasks, 2)}
    assert subsets == subsets_for(tasks, size=size, count=2 if size > 2 else None, seed=1)
    assert all(len(subset) in ({1, 2} if size == 2 else {size}) for subset in subsets)


def test_subset_size_is_checked():
    with pytest.raises(ValueError, match="from 2 to 3, the number of tasks, but got 4"):
        subsets_for("abc", size=4)


def test_distance_ignores_the_diagonal():
    true = torch.tensor([[9.0, 1.0], [2.0, 9.0]], dtype=torch.float64)
    other = torch.tensor([[0.0, 1.5], [2.0, 0.0]], dtype=torch.float64)

    assert relative_distance(other, true) == pytest.approx(0.05)
    assert Affinity(("a", "b"), true, "m").symmetric[0, 1] == 1.5
