"""What the verbs on files share: options that do not go together, sizes, and how messages name arguments."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from lomt.errors import LomtError

__all__ = [
    "InputSizeOption",
    "JsonOption",
    "RunStage",
    "SetOption",
    "VerboseOption",
    "in_options",
    "make_local_modules_known",
    "parse_size",
    "refuse_options",
]

RunStage = Callable[[str, list[str] | None, Path | None, str, int], None]
"""Runs a stage of a recipe and prints the summary: recipe, overrides, run directory, stage, verbosity."""

SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Of a recipe: change a key. May be repeated."),
]
InputSizeOption = Annotated[
    str | None,
    typer.Option(
        "--input-size", metavar="HxW", help="Height and width in pixels, where a file leaves them open."
    ),
]
JsonOption = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Also write the result as JSON.")
]
VerboseOption = Annotated[
    int, typer.Option("--verbose", "-v", count=True, help="Log what is done; twice for details.")
]


def refuse_options(options: Mapping[str, Any], where: str, way_out: str) -> None:
    """Refuse options that were given but do not belong here."""
    given = [name for name, value in options.items() if value not in (None, [])]
    if given:
        raise LomtError(f"Expected no {', '.join(given)} {where}. {way_out}")


def parse_size(text: str) -> tuple[int, int]:
    """Return height and width from a text such as 96x128."""
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) > 0 and int(width) > 0):
        raise LomtError(
            f"Expected `--input-size` to be height x width in pixels, such as 96x128, but got {text}."
        )
    return int(height), int(width)


def make_local_modules_known() -> None:
    """Let factories name modules that lie where lomt is called from."""
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)  # a factory's module may lie where lomt is called from, as with `python -m`


def in_options(text: str) -> str:
    """Name a library's argument as the command line does."""
    for name in ("threads", "rounds", "seconds", "share"):
        text = text.replace(f"`{name}`", f"`--{name}`")
    return text.replace("`input_shape`", "`--input-size`")
