"""What the verbs share: options, those that do not go together, sizes, and how messages name arguments."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lomt.errors import LomtError

if TYPE_CHECKING:
    from lomt.pipeline.model_source import ModelSource

__all__ = [
    "ExampleOption",
    "FactoryArgument",
    "InputSizeOption",
    "JsonOption",
    "KeywordOption",
    "ProtectOption",
    "RunStage",
    "SetOption",
    "ShapeOption",
    "VerboseOption",
    "WeightsOption",
    "in_options",
    "make_local_modules_known",
    "open_factory",
    "open_model_source",
    "parse_keywords",
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
ShapeOption = Annotated[
    list[str] | None,
    typer.Option("--input", metavar="SHAPE", help="Shape of the images, such as 1x3x224x224; runs know it."),
]
FactoryArgument = Annotated[
    str,
    typer.Argument(
        metavar="FACTORY",
        help="package.module:callable, path/file.py:callable, timm:NAME, or a directory with a saved model.",
    ),
]
ExampleOption = Annotated[
    list[str],
    typer.Option(
        "--input",
        metavar="SHAPE",
        help="Example input such as 1x3x224x224, image=1x3x64x64 for an argument by name, 1x16:int64 for "
        "another type. May be repeated.",
    ),
]
ProtectOption = Annotated[
    list[str] | None,
    typer.Option("--protect", metavar="NAME", help="A layer whose channels stay. May be repeated."),
]
WeightsOption = Annotated[
    Path | None, typer.Option("--weights", metavar="FILE", help="A safetensors file or torch checkpoint.")
]
KeywordOption = Annotated[
    list[str] | None,
    typer.Option("--option", metavar="KEY=VALUE", help="An argument of the factory. May be repeated."),
]
VerboseOption = Annotated[
    int, typer.Option("--verbose", "-v", count=True, help="Log what is done; twice for details.")
]


def refuse_options(options: Mapping[str, Any], where: str, way_out: str) -> None:
    """Refuse options that were given but do not belong here."""
    given = [name for name, value in options.items() if value not in (None, [])]
    if given:
        raise LomtError(f"Expected no {', '.join(given)} {where}. {way_out}")


def parse_size(text: str, option: str = "--size") -> tuple[int, int]:
    """Return height and width from a text such as 96x128.

    Args:
        text: What the option was given.
        option: Its name, for the message.

    Raises:
        LomtError: The text is no size.
    """
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) > 0 and int(width) > 0):
        raise LomtError(
            f"Expected `{option}` to be height x width in pixels, such as 96x128, but got {text}."
        )
    return int(height), int(width)


def parse_keywords(texts: list[str]) -> dict[str, Any]:
    """Read the arguments of a factory, `KEY=VALUE` with a value in YAML.

    Raises:
        LomtError: A text cannot be read.
    """
    import yaml

    kwargs = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (equals and key.isidentifier()):
            raise LomtError(f"Expected `--option` to be KEY=VALUE, such as num_classes=10, but got {text}.")
        try:
            kwargs[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise LomtError(f"Expected the value of `--option {text}` to be YAML, but it is not.") from error
    return kwargs


def make_local_modules_known() -> None:
    """Let factories name modules that lie where lomt is called from."""
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)  # as with `python -m`


def open_factory(
    factory: str, inputs: list[str], weights: Path | None, keywords: list[str] | None, verbosity: int
) -> tuple[Any, Any]:
    """Return a factory's model with example inputs, which the command line describes.

    Raises:
        LomtError: There is no such model, or an input cannot be read.
    """
    from lomt.terminal import configure_logging

    configure_logging(verbosity)
    kwargs = parse_keywords(keywords or [])
    from lomt.models.example_inputs import parse_inputs
    from lomt.pruning.source import open_model

    try:
        examples = parse_inputs(inputs)
    except ValueError as error:
        raise LomtError(str(error)) from error
    make_local_modules_known()
    return open_model(factory, kwargs, weights), examples


def open_model_source(
    source: str,
    inputs: list[str] | None,
    weights: Path | None,
    keywords: list[str] | None,
    verbosity: int,
    *,
    uses_data: bool = True,
) -> "ModelSource":
    """Open what a verb on files is told to take as the model: a run, a saved model or a factory.

    Raises:
        LomtError: There is no such model, or it does not say what it takes.
    """
    from lomt.terminal import configure_logging

    configure_logging(verbosity)
    kwargs = parse_keywords(keywords or [])
    from lomt.pipeline.model_source import open_source

    make_local_modules_known()
    return open_source(source, inputs or (), weights=weights, kwargs=kwargs, uses_data=uses_data)


def in_options(text: str) -> str:
    """Name a library's argument as the command line does."""
    for name in ("threads", "rounds", "seconds", "share"):
        text = text.replace(f"`{name}`", f"`--{name}`")
    return text.replace("`input_shape`", "`--input-size`")
