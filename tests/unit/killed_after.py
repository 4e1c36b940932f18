"""The end of a process in the middle of its work, for tests of resuming."""

from lomt.training import SilentProgress

__all__ = ["KilledAfter"]


class KilledAfter(SilentProgress):
    """Ends the process's work at a step, as a kill would."""

    def __init__(self, steps):
        self.left = steps

    def advance(self, count=1, **figures):
        self.left -= 1
        if self.left == 0:
            raise SystemExit
