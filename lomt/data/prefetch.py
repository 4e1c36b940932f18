"""Making items ahead of the one who consumes them, in a thread or in processes."""

import threading
from collections.abc import Callable, Generator, Sequence
from queue import SimpleQueue
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader

from lomt.errors import DataError

__all__ = ["in_processes", "in_thread"]

_Item = TypeVar("_Item")


def in_thread(
    make: Callable[[int], _Item], numbers: Sequence[int], *, ahead: int = 3
) -> Generator[_Item, None, None]:
    """Yield ``make(number)`` for each number, made in order by one background thread.

    The thread starts with the first item asked for and has ended when the generator is exhausted, closed or
    collected. What ``make`` raises is raised here, at its place in the order.

    Args:
        make: Makes an item; called in the thread.
        numbers: What it is called with.
        ahead: How many items may be ready or in the making, at least 1.
    """
    items: SimpleQueue[tuple[_Item | None, BaseException | None]] = SimpleQueue()
    free = threading.Semaphore(ahead)
    stop = threading.Event()

    def work() -> None:
        for number in numbers:
            free.acquire()
            if stop.is_set():
                return
            try:
                items.put((make(number), None))
            except BaseException as error:  # KeyboardInterrupt too: the consumer must not wait for ever
                items.put((None, error))
                return

    thread = threading.Thread(target=work, name="lomt-prefetch", daemon=True)
    thread.start()
    try:
        for _ in numbers:
            item, error = items.get()
            free.release()
            if error is not None:
                raise error
            yield item  # type: ignore[misc]  # an item where there is no error
    finally:
        stop.set()
        free.release()
        if thread is not threading.current_thread():  # which may run the collector that ends this generator
            thread.join()


class _Attempts(torch.utils.data.Dataset[Any]):
    """A map from a number to an item, or to the error that says what is wrong with the data.

    An error crosses the process border as a value: PyTorch would raise one with a traceback for its message.
    """

    def __init__(self, make: Callable[[int], Any]) -> None:
        self.make = make

    def __getitem__(self, number: int) -> Any:
        try:
            return self.make(number)
        except DataError as error:
            return error


def in_processes(
    make: Callable[[int], _Item], numbers: Sequence[int], *, workers: int, ahead: int = 2
) -> Generator[_Item, None, None]:
    """Yield ``make(number)`` for each number in order, made by worker processes.

    The processes start with the first item asked for and have ended when the generator is exhausted, closed
    or collected. PyTorch's global random state is not touched.

    Args:
        make: Makes an item; must be picklable where processes are not forked.
        numbers: What it is called with.
        workers: Number of processes, at least 1.
        ahead: How many items each process has ready or in the making.
    """
    loader = DataLoader(
        _Attempts(make),
        batch_size=None,
        sampler=numbers,
        num_workers=workers,
        prefetch_factor=ahead,
        generator=torch.Generator(),
    )
    items = iter(loader)
    try:
        for item in items:
            if isinstance(item, DataError):
                raise item
            yield item
    finally:
        # private, but the iterator's finaliser would wait for tracebacks that hold it, those of Ctrl-C too
        items._shutdown_workers()  # type: ignore[attr-defined]
