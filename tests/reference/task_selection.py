"""The best networks by going through all choices of them, as the authors of TAG describe it."""

from itertools import combinations
from math import inf


def best_total(affinity, count, alone=None):
    """Return the largest sum over tasks of what the best of at most ``count`` networks gives each.

    Args:
        affinity: Rows of what each task gains from each other one.
        count: The most networks.
        alone: What each task gets from a network of its own; None forbids such networks.
    """
    tasks = range(len(affinity))
    networks = [own for size in range(1, len(affinity) + 1) for own in combinations(tasks, size)]
    best = -inf
    for number in range(1, count + 1):
        for chosen in combinations(networks, number):
            best = max(best, sum(max(score(affinity, t, own, alone) for own in chosen) for t in tasks))
    return best


def best_parting(affinity, count, alone=None):
    """Return the same where every task is in one network, trained and served."""
    return max(
        sum(score(affinity, t, own, alone) for own in parts for t in own)
        for parts in partings(list(range(len(affinity))))
        if len(parts) <= count
    )


def partings(items):
    """Yield all ways to part a list."""
    if not items:
        yield []
        return
    for parts in partings(items[1:]):
        yield [[items[0]], *parts]
        for index, part in enumerate(parts):
            yield [*parts[:index], [items[0], *part], *parts[index + 1 :]]


def score(affinity, task, network, alone):
    """Return what a task gets from a network: the mean of the others' affinities onto it."""
    if task not in network:
        return -inf
    others = [other for other in network if other != task]
    if not others:
        return -inf if alone is None else alone[task]
    return sum(affinity[task][other] for other in others) / len(others)
