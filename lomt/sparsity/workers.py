"""A few threads that work on different layers at the same time."""

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

import torch

__all__ = ["run_in_threads"]

_MOST_THREADS = 8
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def run_in_threads(
    function: Callable[[_Item], _Result], items: Iterable[_Item], most_threads: int
) -> list[_Result]:
    """Call a function on every item, in as many threads as torch may use, at most eight.

    torch itself would split every single operation among its threads and wait for the slowest each time. With
    many short operations that waiting dominates as soon as another process wants the processor too. Here each
    thread runs its operations alone, and there is one wait at the end. It also makes results independent of the
    number of threads.

    Args:
        function: Works on tensors of the CPU; must be safe to call on two items at once.
        items: What to call it on.
        most_threads: How many threads the work is worth.

    Returns:
        The results in the order of `items`.
    """
    if torch.get_num_threads() == 1:
        return [function(item) for item in items]
    count = max(1, min(torch.get_num_threads(), most_threads, _MOST_THREADS))
    return list(_pool(count, os.getpid()).map(function, items))


@lru_cache(maxsize=None)
def _pool(count: int, process: int) -> ThreadPoolExecutor:
    # The number of threads torch uses is kept for each calling thread, and once more for threads yet to come:
    # that one is put back when all of the pool's threads have set their own.
    before = torch.get_num_threads()
    ready = threading.Barrier(count + 1)

    def start() -> None:
        torch.set_num_threads(1)
        ready.wait()

    pool = ThreadPoolExecutor(count, thread_name_prefix="lomt-prox", initializer=start)
    for _ in range(count):
        pool.submit(lambda: None)
    ready.wait()
    torch.set_num_threads(before)
    return pool
