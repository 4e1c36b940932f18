"""The end of a process in the middle of its work, for tests of resuming."""

from lomt.training import SilentProgress

__all__ = ["KilledAfter", "KilledInTraining"]


class KilledAfter(SilentProgress):
    """Ends the process's work at a step, as a kill would."""

    def __init__(self, steps):
        self.left = steps

    def advance(self, count=1, **figures):
        self.left -= 1
        if self.left == 0:
            raise SystemExit


class KilledInTraining(SilentProgress):
    """Ends a stage's work after so many steps of training, whatever else it counts."""

    def __init__(self, steps):
        self._left = steps

    def start(self, what, total, done=0):
        self._is_training = what == "training"

    def advance(self, **values):
        self._left -= self._is_training
        if self._left < 0:
            raise SystemExit
