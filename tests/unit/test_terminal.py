"""Bars, lines, tables and log records."""

import io
import logging
import re

import pytest
from rich.console import Console

from lomt.terminal import (
    BarProgress,
    LineProgress,
    configure_logging,
    format_duration,
    format_figures,
    format_rate,
    show_table,
    terminal_progress,
)


class Clock:
    """Seconds that pass when told."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def stream():
    return io.StringIO()


@pytest.fixture
def screen():
    """Return a terminal whose output can be read."""
    return Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None)


def test_lines_come_with_time_and_not_with_steps(stream, clock):
    progress = LineProgress(Console(file=stream), every_s=12.5, clock=clock)
    progress.start("training", 1000, done=100)
    for step in range(500):
        clock.now += 0.125
        progress.advance(loss=1 / (step + 1))
    progress.finish("loss 0.5")
    assert stream.getvalue().splitlines() == [
        "training: 100/1000",
        "training: 200/1000, 8.0/s, 1:40 left, loss 0.01",
        "training: 300/1000, 8.0/s, 1:28 left, loss 0.005",
        "training: 400/1000, 8.0/s, 1:15 left, loss 0.003333",
        "training: 500/1000, 8.0/s, 1:02 left, loss 0.0025",
        "training: 600/1000, 8.0/s, 0:50 left, loss 0.002",
        "training: done in 1:02, loss 0.5",
    ]


def test_messages_are_written_at_once(clock):
    class Pipe(io.StringIO):
        flushed = 0

        def flush(self):
            self.flushed += 1

    pipe = Pipe()
    progress = LineProgress(Console(file=pipe), clock=clock)
    progress.message("[bold] stays as it is")
    assert (pipe.getvalue(), pipe.flushed) == ("[bold] stays as it is\n", 1)


def test_what_was_not_started_neither_advances_nor_ends(stream, clock, screen):
    for progress in (LineProgress(Console(file=stream), every_s=0.0, clock=clock), BarProgress(screen)):
        progress.advance(loss=1.0)
        progress.finish("done")
    assert stream.getvalue() == screen.file.getvalue() == ""


def test_a_rate_of_zero_promises_no_end(stream, clock):
    progress = LineProgress(Console(file=stream), every_s=0.0, clock=clock)
    progress.start("waiting", 10)
    progress.advance(0)
    assert stream.getvalue().splitlines()[-1] == "waiting: 0/10"


def test_the_bar_shows_count_rate_and_figures(screen):
    with BarProgress(screen) as progress:
        progress.start("training [depth]", 10, done=3)
        progress.advance(2, loss=0.51234, lr=0.001)
        progress.advance()
        progress._bars.refresh()
    text = screen.file.getvalue()
    assert "training [depth]" in text
    assert "6/10" in text
    assert "loss 0.5123  lr 0.001" in text


def test_finished_work_leaves_one_line(screen):
    progress = BarProgress(screen)
    progress.start("training", 10)
    progress.advance(10)
    progress.finish("miou 0.3")
    assert screen.file.getvalue().splitlines()[-1].endswith("training: done in 0:00, miou 0.3")


def test_the_bar_goes_away_and_the_cursor_comes_back_whatever_happens(screen):
    with pytest.raises(KeyboardInterrupt), BarProgress(screen) as progress:
        progress.start("training", 10)
        raise KeyboardInterrupt
    text = screen.file.getvalue()
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l") >= 0


def test_a_second_bar_takes_the_place_of_the_first(screen):
    with BarProgress(screen) as progress:
        progress.start("one", 1)
        progress.start("two", 1)
        progress._bars.refresh()
        assert [task.description for task in progress._bars.tasks] == ["two"]


def test_the_right_progress_is_chosen(screen, stream):
    assert isinstance(terminal_progress(screen), BarProgress)
    plain = terminal_progress(Console(file=stream))
    assert isinstance(plain, LineProgress)
    plain.message("x")
    assert stream.getvalue() == "x\n"


def test_both_are_progresses(screen, stream):
    from lomt.training import Progress

    wanted = [name for name in vars(Progress) if not name.startswith("_")]
    for progress in (BarProgress(screen), LineProgress(Console(file=stream))):
        assert all(callable(getattr(progress, name)) for name in wanted)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0:00"), (59.6, "1:00"), (125.0, "2:05"), (3723.0, "1:02:03"), (90000.0, "25:00:00")],
)
def test_durations(seconds, text):
    assert format_duration(seconds) == text


@pytest.mark.parametrize(("rate", "text"), [(12.34, "12.3/s"), (1.0, "1.0/s"), (0.25, "4.0 s each")])
def test_rates(rate, text):
    assert format_rate(rate) == text


def test_figures_have_four_digits():
    assert format_figures({"loss": 0.123456, "lr": 1e-5}) == "loss 0.1235  lr 1e-05"
    assert format_figures({}) == ""


def test_tables_in_a_file_are_never_wrapped(capsys):
    show_table(("name", "count"), [("a" * 200, "1"), ("[b]", "22")], numbers=("count",))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[1] == f"{'a' * 200}      1"
    assert lines[2].split() == ["[b]", "22"]


@pytest.mark.parametrize(
    ("verbosity", "heard"), [(0, "WARNING"), (1, "INFO WARNING"), (2, "DEBUG INFO WARNING")]
)
def test_records_go_to_standard_error(capsys, verbosity, heard):
    configure_logging(verbosity)
    for level in ("debug", "info", "warning"):
        getattr(logging.getLogger("lomt.test"), level)("text")
        getattr(logging.getLogger("other"), level)("theirs")
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert [line for line in lines if "lomt.test" in line] == [
        f"{name} lomt.test: text" for name in heard.split()
    ]
    assert [line for line in lines if "other" in line] == ["WARNING other: theirs"]


def test_records_leave_the_bar_whole(screen, monkeypatch):
    monkeypatch.setattr("lomt.terminal.get_console", lambda: screen)
    configure_logging(1)
    with terminal_progress() as progress:
        progress.start("training", 10)
        logging.getLogger("lomt.test").info("a [record]")
    lines = re.split(r"\x1b\[2K|\n", screen.file.getvalue())
    assert any("a [record]" in line and "training" not in line for line in lines)
