"""What the command line shows: a bar on a terminal, plain lines in a log, tables, and log records."""

import logging
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType

from rich import get_console
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.progress import Task as BarTask
from rich.table import Table
from rich.text import Text

__all__ = ["BarProgress", "LineProgress", "configure_logging", "show_table", "terminal_progress"]

_UNWRAPPED = 10_000
"""Width of tables that go to a file or a pipe: wide enough that nothing is wrapped."""


class BarProgress:
    """Shows one bar with count, rate, remaining time and figures; finished work leaves one line.

    Used as a context manager it takes the bar away whatever happens.

    Args:
        console: Where the bar is drawn.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars: Bars | None = None
        self._description = ""
        self._started = 0.0

    def start(self, description: str, total: int, done: int = 0) -> None:
        """Show a new bar; a bar still there is taken away."""
        self._close()
        self._description, self._started = description, time.monotonic()
        self._bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            _RateColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[figures]}", markup=False),
            console=self._console,
            refresh_per_second=4,
            transient=True,
        )
        self._bars.add_task(description, total=total, completed=done, figures="")
        self._bars.start()

    def advance(self, count: int = 1, **figures: float) -> None:
        """Move the bar; the newest figures stay beside it."""
        if self._bars is None:
            return
        changes = {"figures": format_figures(figures)} if figures else {}
        self._bars.update(self._bars.task_ids[0], advance=count, **changes)  # type: ignore[arg-type]

    def finish(self, note: str = "") -> None:
        """Take the bar away and leave a line with the time it took."""
        if self._bars is None:
            return
        self._close()
        self.message(_closing_line(self._description, time.monotonic() - self._started, note))

    def message(self, text: str) -> None:
        """Print a line above the bar."""
        self._console.print(text, markup=False, highlight=False)

    def _close(self) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def __enter__(self) -> "BarProgress":
        """Return the progress itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take a bar that is still there away."""
        self._close()


class LineProgress:
    """Writes plain lines: one at the start, one every `every_s` seconds, one at the end.

    Args:
        console: Where lines go.
        every_s: Seconds between lines, so that a log grows with time and not with steps.
        clock: Seconds from any fixed moment.
    """

    def __init__(
        self, console: Console, every_s: float = 30.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console, self._every_s, self._clock = console, every_s, clock
        self._description: str | None = None
        self._total = self._done = self._done_at_start = 0
        self._started = self._last_line = 0.0

    def start(self, description: str, total: int, done: int = 0) -> None:
        """Write the first line."""
        self._description, self._total = description, total
        self._done = self._done_at_start = done
        self._started = self._last_line = self._clock()
        self.message(f"{description}: {done}/{total}")

    def advance(self, count: int = 1, **figures: float) -> None:
        """Count; write a line when it is time for one."""
        self._done += count
        now = self._clock()
        if self._description is None or now - self._last_line < self._every_s:
            return
        self._last_line = now
        self.message(f"{self._description}: {self._done}/{self._total}{self._speed(now)}{_beside(figures)}")

    def finish(self, note: str = "") -> None:
        """Write the last line."""
        if self._description is None:
            return
        self.message(_closing_line(self._description, self._clock() - self._started, note))
        self._description = None

    def message(self, text: str) -> None:
        """Write a line at once, also through a pipe."""
        self._console.file.write(f"{text}\n")
        self._console.file.flush()

    def _speed(self, now: float) -> str:
        rate = (self._done - self._done_at_start) / max(now - self._started, 1e-9)
        if rate <= 0:
            return ""
        return f", {format_rate(rate)}, {format_duration((self._total - self._done) / rate)} left"

    def __enter__(self) -> "LineProgress":
        """Return the progress itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the log as it is."""


class _RateColumn(ProgressColumn):
    """Steps a second, or seconds a step where they are slow."""

    def render(self, task: BarTask) -> Text:
        return Text(format_rate(task.speed) if task.speed else "", style="progress.data.speed")


def terminal_progress(console: Console | None = None) -> BarProgress | LineProgress:
    """Return a progress fit for standard output: bars on a terminal, lines elsewhere.

    Args:
        console: Where to draw; standard output if not given.
    """
    console = get_console() if console is None else console
    return BarProgress(console) if console.is_terminal else LineProgress(console)


def show_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Sequence[str] = ()) -> None:
    """Print a table to standard output; elsewhere than on a terminal its lines are never wrapped.

    Args:
        columns: Headings.
        rows: Cells.
        numbers: Headings of the columns set to the right.
    """
    console = get_console()
    if not console.is_terminal:
        console = Console(width=_UNWRAPPED)
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in numbers else "left")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)


def configure_logging(verbosity: int) -> None:
    """Send log records to the terminal without tearing its bar, or to standard error.

    Args:
        verbosity: 0 for warnings, 1 for what lomt does, 2 and more for its details.
    """
    console = get_console()  # the one that draws the bar, which makes room for what it prints
    handler: logging.Handler
    if console.is_terminal:
        handler = RichHandler(console=console, show_path=False, log_time_format="%X")
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], format="%(message)s", force=True)
    levels = {0: logging.WARNING, 1: logging.INFO}
    logging.getLogger("lomt").setLevel(levels.get(verbosity, logging.DEBUG))


def format_duration(seconds: float) -> str:
    """Return `1:02:03` or `2:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def format_rate(rate: float) -> str:
    """Return `12.3/s`, or `4.0 s each` for what takes longer than a second."""
    return f"{rate:.1f}/s" if rate >= 1 else f"{1 / rate:.1f} s each"


def format_figures(figures: Mapping[str, float]) -> str:
    """Return `loss 0.1234  lr 0.001`."""
    return "  ".join(f"{name} {value:.4g}" for name, value in figures.items())


def _beside(figures: Mapping[str, float]) -> str:
    return f", {format_figures(figures)}" if figures else ""


def _closing_line(description: str, seconds: float, note: str) -> str:
    return f"{description}: done in {format_duration(seconds)}{f', {note}' if note else ''}"
