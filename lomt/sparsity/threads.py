"""One thread or all of them for short work on a processor: whichever has been quicker of late."""

import time
from collections import deque
from collections.abc import Callable
from statistics import median

import torch

__all__ = ["ThreadChoice"]

_TRIALS = 3
_RETRY_EVERY = 16


class ThreadChoice:
    """Run the same short work again and again with the number of threads that suits the machine's load.

    torch splits every operation among its threads and waits for the slowest of them each time. On an idle machine
    that pays. Where other processes, such as data loaders, want the cores as well, work of many short
    operations waits more than it computes and is quicker on one thread, while long operations hardly notice.
    Both ways are timed, and the one not in use is tried again every so often. The work must give the same
    result with any number of threads.
    """

    def __init__(self) -> None:
        self._seconds: dict[int, deque[float]] = {}
        self._calls = 0

    def run(self, work: Callable[[], None]) -> None:
        """Run the work with one thread or with as many as torch is set to, which stays set afterwards."""
        most = torch.get_num_threads()
        if most == 1:
            work()
            return
        count = self._choose(most)
        start = time.perf_counter()
        torch.set_num_threads(count)
        try:
            work()
        finally:
            torch.set_num_threads(most)
        self._calls += 1
        if self._calls > 1:  # the first call also pays for memory
            self._seconds.setdefault(count, deque(maxlen=_TRIALS)).append(time.perf_counter() - start)

    def _choose(self, most: int) -> int:
        tried = {count: self._seconds.get(count, ()) for count in (most, 1)}
        for count, seconds in tried.items():
            if len(seconds) < _TRIALS:
                return count
        quicker = min(tried, key=lambda count: median(tried[count]))
        return 1 + most - quicker if self._calls % _RETRY_EVERY == 0 else quicker
