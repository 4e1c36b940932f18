"""The verb `lomt quantize`: a stage of a recipe, or int8 and half precision of any ONNX file."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from lomt.cli_options import (
    InputSizeOption,
    JsonOption,
    RunStage,
    SetOption,
    VerboseOption,
    in_options,
    parse_size,
    refuse_options,
)
from lomt.errors import LomtError

__all__ = ["QUANTIZE_EXAMPLE", "quantize_verb"]

QUANTIZE_EXAMPLE = "Example: lomt quantize rooms_demo"


def quantize_verb(run_stage: RunStage) -> Callable[..., None]:
    """Return the verb ``quantize``.

    Args:
        run_stage: Runs the stage when the argument is a recipe or a run directory.
    """

    def quantize(
        subject: Annotated[
            str,
            typer.Argument(
                metavar="RECIPE | RUN | FILE",
                help="A recipe or a run directory, calibrated and judged on its data; or an ONNX file.",
            ),
        ],
        data: Annotated[
            Path | None,
            typer.Option(
                "--data", metavar="PATH", help="Of a file: a folder of images, or an npz file of ready ones."
            ),
        ] = None,
        share: Annotated[
            float | None,
            typer.Option("--share", metavar="R", help="Share of its float quality each task keeps; 0.99."),
        ] = None,
        images: Annotated[
            int | None, typer.Option("--images", metavar="N", help="Calibration images; 64 if not given.")
        ] = None,
        method: Annotated[
            str | None,
            typer.Option(
                "--method", metavar="minmax|entropy|percentile", help="How ranges follow from images."
            ),
        ] = None,
        fp16: Annotated[
            bool,
            typer.Option("--fp16", help="Half precision for GPUs instead of int8, compared value by value."),
        ] = False,
        input_size: InputSizeOption = None,
        json_file: JsonOption = None,
        overrides: SetOption = None,
        out: Annotated[
            Path | None,
            typer.Option("--out", metavar="PATH", help="The file to write; of a recipe the run directory."),
        ] = None,
        verbose: VerboseOption = 0,
    ) -> None:
        """Write an int8 network that keeps its quality: lomt quantize a.onnx --data images/ --out int8.onnx."""
        settings = {"share": share, "images": images, "method": method}
        if subject.endswith(".onnx"):
            refuse_options({"--set": overrides}, f"with {subject}", "It belongs to a recipe.")
            from lomt.terminal import configure_logging

            configure_logging(verbose)
            if out is None:
                raise LomtError("Expected `--out FILE` to say where the network goes.")
            _quantize_file(Path(subject), out, data, settings, fp16, input_size, json_file)
            return
        of_files = {"--data": data, "--fp16": fp16 or None, "--input-size": input_size, "--json": json_file}
        refuse_options(
            of_files, f"with {subject}", "They belong to an ONNX file, such as the run's deploy/model.onnx."
        )
        given = [f"quantize.{key}={value}" for key, value in settings.items() if value is not None]
        recipe, folder = _recipe_of(subject, out)
        # An empty block of a recipe that has none is made first, and an existing one stays as it is.
        blocks = _missing_block(recipe, overrides)
        run_stage(recipe, [*(overrides or []), *blocks, *given], folder, "quantize", verbose)

    return quantize


def _recipe_of(subject: str, out: Path | None) -> tuple[str, Path | None]:
    stored = Path(subject, "recipe.yaml")
    if not stored.is_file():
        return subject, out
    if out is not None:
        raise LomtError(f"Expected no `--out` for the run directory {subject}: the result stays in it.")
    return str(stored), Path(subject)


def _missing_block(recipe: str, overrides: list[str] | None) -> list[str]:
    from lomt.recipe import load_recipe

    settings = load_recipe(recipe, overrides or (), check_names=False)
    return ["quantize={}"] if settings.quantize is None else []


def _quantize_file(
    path: Path,
    out: Path,
    data: Path | None,
    settings: Mapping[str, Any],
    fp16: bool,
    input_size: str | None,
    json_file: Path | None,
) -> None:
    from lomt.atomic_file import write_text_atomically

    size = None if input_size is None else parse_size(input_size, "--input-size")
    given = {key: value for key, value in settings.items() if value is not None}
    try:
        result = (_to_fp16 if fp16 else _to_int8)(path, out, data, given, size)
    except ValueError as error:  # a number that only the quantiser can tell to be wrong
        if isinstance(error, LomtError):
            raise
        raise LomtError(in_options(str(error))) from error
    typer.echo(str(result))
    typer.echo(f"Written to {out}.")
    if json_file is not None:
        write_text_atomically(json_file, json.dumps(result.to_dict(), indent=2) + "\n")


def _to_int8(
    path: Path, out: Path, data: Path | None, given: dict[str, Any], size: tuple[int, int] | None
) -> Any:
    from lomt.deploy.agreement import agreement_with
    from lomt.deploy.calibration_images import load_images
    from lomt.deploy.quantize import quantize_int8

    if data is None:
        raise LomtError(
            "Expected `--data` to name a folder of images or an npz file, because ranges come from images, but got "
            "none."
        )
    images = load_images(data, path, count=_image_count(given), size=size)
    typer.echo(
        "Without labels, quality is agreement with the float network: the share of equal classes, or 1 - relative RMS "
        "difference."
    )
    return quantize_int8(path, out, images, agreement_with(path, images), **given)


def _to_fp16(
    path: Path, out: Path, data: Path | None, given: dict[str, Any], size: tuple[int, int] | None
) -> Any:
    from lomt.deploy.calibration_images import load_images, random_images
    from lomt.deploy.fp16 import convert_fp16

    count = _image_count(given)
    refuse_options({f"--{name}": value for name, value in given.items()}, "with --fp16", "They are for int8.")
    images = (
        random_images(path, count=4, size=size)
        if data is None
        else load_images(data, path, count=count, size=size)
    )
    return convert_fp16(path, out, images)


def _image_count(given: dict[str, Any]) -> int:
    count = given.pop("images", 64)
    if count < 1:
        raise LomtError(f"Expected `--images` to be at least 1, but got {count}.")
    return int(count)
