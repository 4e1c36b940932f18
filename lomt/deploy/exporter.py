"""Torch's exporter as a user should meet it: without its prints, with its errors in a line."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

__all__ = ["quiet_exporter", "root_cause"]

_logger = logging.getLogger(__name__)


def root_cause(error: BaseException) -> str:
    """Say in a line what lies at the bottom of an exporter's error."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0].rstrip('.')}"


@contextlib.contextmanager
def quiet_exporter() -> Iterator[None]:
    """Keep the exporter's prints, warnings and log lines from the user; errors still are raised."""
    printed = io.StringIO()
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(printed),
            contextlib.redirect_stderr(printed),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
    if printed.getvalue():
        _logger.debug("The exporter said: %s", printed.getvalue())
