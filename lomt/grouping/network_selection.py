r"""Which networks to train within a budget, by the affinity that the tasks show two by two (TAG).

A network is a set :math:`N` of tasks trained together. What task :math:`t` gets from it is predicted as

.. math:: s_t(N) = \frac{1}{|N| - 1} \sum_{o \in N,\, o \ne t} Z_{o \to t}

and a task is served by whichever network is best for it, so that of at most :math:`k` networks those are wanted with
the largest

.. math:: \sum_t \max_{N \ni t} s_t(N).

A task may be trained in several networks, where it helps the tasks that these serve.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from jaxtyping import Float64
from torch import Tensor

__all__ = ["LARGEST_FOR_TAG", "Selection", "select_networks"]

LARGEST_FOR_TAG = 12
"""The most tasks; each further one triples time and memory."""

_Blocks = tuple[float, tuple[int, ...]]


@dataclass(frozen=True)
class Selection:
    """The networks to train.

    Args:
        served: Of every network the tasks it serves, by row; every task once.
        helpers: Of every network the other tasks it is trained on.
        total: The sum over tasks of what they get.
    """

    served: tuple[tuple[int, ...], ...]
    helpers: tuple[tuple[int, ...], ...]
    total: float


def select_networks(
    affinity: Float64[Tensor, "tasks tasks"],
    count: int,
    *,
    alone: Float64[Tensor, " tasks"] | None = None,
    helpers: bool = True,
) -> Selection:
    """Return the best networks, exactly.

    The authors go through all choices of networks. The same optimum follows faster from the tasks that each network
    serves: these sets part the tasks, each set has one best network, and the best parting into at most ``count`` sets
    grows from those of fewer tasks, in time that goes with three to the power of the number of tasks whatever the
    affinities.

    Args:
        affinity: Row: the task that gains; column: the one that it is trained with. The diagonal is not read.
        count: The most networks, at least 1.
        alone: What each task gets from a network of its own; without it no network has one task, as the authors' code
            does it.
        helpers: Whether networks may hold tasks that another one serves, as published.

    Raises:
        ValueError: If there are too many tasks, or fewer than two.

    References:
        Fifty et al., "Efficiently Identifying Task Groupings for Multi-Task Learning", 2021,
        https://arxiv.org/abs/2109.04617, section 3.2.
    """
    tasks = len(affinity)
    if not 2 <= tasks <= LARGEST_FOR_TAG:
        raise ValueError(
            f"Expected from 2 to {LARGEST_FOR_TAG} tasks for TAG's exact selection, but got {tasks}. "
            "Choose `clustering: sdp` or `clustering: spectral`."
        )
    own = None if alone is None else alone.tolist()
    worth, networks = _worths(affinity.tolist(), own, helpers)
    total, blocks = _best_parting(worth, min(count, tasks))
    joined: dict[int, int] = {}
    for block in blocks:
        joined[networks[block]] = joined.get(networks[block], 0) | block
    parts = sorted((_members(block), _members(network & ~block)) for network, block in joined.items())
    return Selection(tuple(part[0] for part in parts), tuple(part[1] for part in parts), total)


def _worths(
    affinity: list[list[float]], alone: list[float] | None, helpers: bool
) -> tuple[list[float], list[int]]:
    """Return for every set of tasks, as bits, what they get from the network that serves them best, and that one."""
    sets = 1 << len(affinity)
    worth, networks = [-float("inf")] * sets, [0] * sets
    for network in range(1, sets):
        members = _members(network)
        if len(members) == 1 and alone is None:
            continue
        scores = {
            1 << t: sum(affinity[t][o] for o in members if o != t) / (len(members) - 1)
            if len(members) > 1
            else (alone or [])[t]
            for t in members
        }
        sums = {0: 0.0}
        for block in _subsets(network):
            lowest = block & -block
            value = sums[block] = sums[block ^ lowest] + scores[lowest]
            if (helpers or block == network) and value > worth[block]:
                worth[block], networks[block] = value, network
    return worth, networks


def _best_parting(worth: list[float], count: int) -> _Blocks:
    """Return the largest sum over at most so many sets that part all tasks, and the sets."""
    best: list[_Blocks] = [(0.0, ()), *((value, (block,)) for block, value in enumerate(worth) if block)]
    for _ in range(count - 1):
        grown = list(best)
        for union in range(1, len(worth)):
            rest = union & (union - 1)
            for more in _subsets(rest):  # what the set with the lowest task leaves to the others
                value = worth[union ^ more] + best[more][0]
                if value > grown[union][0]:
                    grown[union] = (value, (union ^ more, *best[more][1]))
        best = grown
    return best[-1]


def _subsets(bits: int) -> Iterator[int]:
    """Yield all subsets but the empty one, smaller numbers first."""
    subset = -bits & bits
    while subset:
        yield subset
        subset = (subset - bits) & bits


def _members(bits: int) -> tuple[int, ...]:
    return tuple(index for index in range(bits.bit_length()) if bits >> index & 1)
