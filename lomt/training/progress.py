"""How long-running work tells whoever watches how far it is."""

from typing import Protocol, runtime_checkable

__all__ = ["Progress", "SilentProgress"]


@runtime_checkable
class Progress(Protocol):
    """One bar at a time: what runs now, how many steps it has, how far it is."""

    def start(self, description: str, total: int, done: int = 0) -> None:
        """Begin a piece of work of ``total`` steps, ``done`` of them already behind us."""

    def advance(self, count: int = 1, **figures: float) -> None:
        """Note ``count`` more steps; ``figures`` such as the loss are shown beside the bar."""

    def finish(self, note: str = "") -> None:
        """End the piece of work; ``note`` stays on the screen."""

    def message(self, text: str) -> None:
        """Say one line that stays on the screen."""


class SilentProgress:
    """Shows nothing: the default of every function that takes a progress."""

    def start(self, description: str, total: int, done: int = 0) -> None:
        """Show nothing."""

    def advance(self, count: int = 1, **figures: float) -> None:
        """Show nothing."""

    def finish(self, note: str = "") -> None:
        """Show nothing."""

    def message(self, text: str) -> None:
        """Show nothing."""
