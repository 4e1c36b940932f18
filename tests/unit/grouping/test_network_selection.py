import time

import pytest
import torch
from reference.task_selection import best_parting, best_total, score

from lomt.grouping import LARGEST_FOR_TAG, cluster, select_networks


def random_affinity(tasks, seed):
    return torch.randn(tasks, tasks, generator=torch.Generator().manual_seed(seed)).double()


def total_of(found, affinity, alone):
    return sum(
        score(affinity, task, (*served, *helpers), alone)
        for served, helpers in zip(found.served, found.helpers, strict=True)
        for task in served
    )


@pytest.mark.parametrize("is_alone_allowed", [False, True])
@pytest.mark.parametrize("helpers", [False, True])
@pytest.mark.parametrize(("tasks", "count"), [(2, 1), (3, 2), (4, 2), (4, 3), (5, 2), (5, 4)])
def test_selection_is_that_of_brute_force(tasks, count, helpers, is_alone_allowed):
    if helpers and (tasks, count) == (5, 4):
        count = 3  # brute force goes through all choices of 31 networks
    for seed in range(3):
        affinity = random_affinity(tasks, seed)
        alone = affinity.diag() if is_alone_allowed else None
        found = select_networks(affinity, count, alone=alone, helpers=helpers)

        rows, own = affinity.tolist(), alone.tolist() if is_alone_allowed else None
        assert found.total == pytest.approx((best_total if helpers else best_parting)(rows, count, own))
        assert total_of(found, rows, own) == pytest.approx(found.total)
        assert sorted(task for served in found.served for task in served) == list(range(tasks))
        assert len(found.served) <= count
        assert helpers or not any(found.helpers)


def test_a_helper_is_trained_along_and_served_elsewhere():
    """Task 0 helps 1 and 2, which harm each other; 0 itself gains from 1 alone."""
    affinity = torch.tensor([[0, 1, -1], [1, 0, -1], [1, -1, 0]], dtype=torch.float64)
    found = select_networks(affinity, 2)

    assert (found.served, found.helpers) == (((0, 1), (2,)), ((), (0,)))
    assert found.total == 3
    assert select_networks(affinity, 2, helpers=False).served == ((0, 1, 2),)
    grouping = cluster("abc", affinity, groups=2, method="tag")
    assert (grouping.groups, grouping.helpers) == ((("a", "b"), ("c",)), ((), ("a",)))
    assert grouping.facts == {"asked_groups": 2, "total": 3.0, "status": "optimal"}


def test_both_directions_count():
    """By the mean of both directions, 0 would go with 1; nothing that 1 gets from 0 makes up for what 0 loses."""
    affinity = torch.full((4, 4), -1.0, dtype=torch.float64)
    affinity[0, 1], affinity[1, 0] = -9, 8.5
    affinity[0, 2] = affinity[2, 0] = affinity[1, 3] = affinity[3, 1] = 0
    found = cluster("abcd", affinity, groups=2, method="tag", helpers=False)

    assert set(found.groups) == {("a", "c"), ("b", "d")}


def test_standardised_rows_keep_alone_in_their_unit():
    affinity = random_affinity(5, 1)
    scaled = 100 * affinity + torch.arange(5)[:, None] * 30
    first, second = (
        cluster("abcde", rows, groups=3, method="tag", standardise=True, alone=rows.diag()).groups
        for rows in (affinity, scaled)
    )

    assert first == second


def test_as_many_tasks_as_are_taken_are_done_in_seconds():
    tasks = LARGEST_FOR_TAG
    began = time.process_time()
    found = select_networks(random_affinity(tasks, 0), 4)

    assert len(found.served) <= 4
    assert time.process_time() - began < 20


@pytest.mark.parametrize("tasks", [1, 13])
def test_the_number_of_tasks_is_checked(tasks):
    with pytest.raises(
        ValueError, match=f"from 2 to 12 tasks for TAG's exact selection, but got {tasks}. Ch"
    ):
        select_networks(random_affinity(tasks, 0), 2)


def test_tag_needs_a_number():
    with pytest.raises(ValueError, match="Expected `groups` to be given for TAG's selection, but got only"):
        cluster("abc", random_affinity(3, 0), penalty=1.0, method="tag")
