"""Ctrl-C between steps instead of in the middle of one."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Interruption", "deferred_interrupt"]


class Interruption:
    """Whether Ctrl-C was pressed; a second press acts at once."""

    def __init__(self) -> None:
        self.is_requested = False

    def request(self, number: int, frame: FrameType | None) -> None:
        """Note the first signal; raise on the second."""
        if self.is_requested:
            raise KeyboardInterrupt
        self.is_requested = True


@contextmanager
def deferred_interrupt() -> Iterator[Interruption]:
    """Hold Ctrl-C back inside the context, so that the work can stop where its state is whole.

    Outside the main thread signals cannot be caught, and nothing is held back.
    """
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    previous = signal.signal(signal.SIGINT, interruption.request)
    try:
        yield interruption
    finally:
        signal.signal(signal.SIGINT, previous)
