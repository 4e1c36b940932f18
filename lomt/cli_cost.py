"""The verb `lomt cost`: it parses and prints what a file or a model costs."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from lomt.cli_options import (
    KeywordOption,
    ShapeOption,
    VerboseOption,
    WeightsOption,
    open_model_source,
    parse_size,
)
from lomt.errors import LomtError

if TYPE_CHECKING:
    from lomt.deploy import Cost
    from lomt.pipeline.model_source import ModelSource

__all__ = ["cost"]


def cost(
    target: Annotated[
        str,
        typer.Argument(metavar="FILE|RUN|DIR|FACTORY", help="An ONNX file, or a model as in `lomt export`."),
    ],
    inputs: ShapeOption = None,
    batch: Annotated[
        int, typer.Option("--batch", metavar="N", help="Images, where a file leaves it open.")
    ] = 1,
    size: Annotated[
        str | None,
        typer.Option("--size", metavar="HxW", help="Height and width, where a file leaves them open."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    weights: WeightsOption = None,
    keywords: KeywordOption = None,
    verbose: VerboseOption = 0,
) -> None:
    """Count parameters, multiply-accumulates, activations and bytes in the exported graph, by component and task."""
    image_size = None if size is None else parse_size(size)
    if Path(target).is_file():
        from lomt.deploy import count_cost

        try:
            found, torch_macs = count_cost(Path(target), batch=batch, size=image_size), None
        except ValueError as error:
            raise LomtError(str(error)) from error
    else:
        source = open_model_source(target, inputs, weights, keywords, verbose, uses_data=False)
        found, torch_macs = _model_cost(source, batch, image_size)
    if as_json:
        typer.echo(json.dumps({**found.to_dict(), "torch_macs": torch_macs}, indent=2))
    else:
        _show_cost(found, torch_macs)


def _model_cost(source: "ModelSource", batch: int, size: tuple[int, int] | None) -> "tuple[Cost, int]":
    from lomt.deploy import count_cost, export_files
    from lomt.deploy.image_sizes import at_size
    from lomt.deploy.torch_macs import count_torch_macs

    images = source.images[:1] if size is None else at_size(source.images[:1], size)
    with TemporaryDirectory(prefix="lomt-cost-") as folder:
        path = Path(folder, "model.onnx")
        try:
            export_files(source.model, images, {path: None}, fixed_size=True, verify=False)
            found = count_cost(path, batch=batch)
        except (ValueError, TypeError) as error:
            raise LomtError(str(error)) from error
    return found, count_torch_macs(source.model, images.repeat(batch, 1, 1, 1))


def _show_cost(cost: "Cost", torch_macs: int | None) -> None:
    from lomt.terminal import show_table

    numbers = ("parameters", "MACs", "activations", "weight bytes")
    whole = ("all", f"{cost.params:,}", f"{cost.macs:,}", f"{cost.activations:,}", f"{cost.weight_bytes:,}")
    for heading, parts in (("component", cost.components), ("task alone", cost.tasks)):
        rows = [
            (name, f"{part.params:,}", f"{part.macs:,}", f"{part.activations:,}", f"{part.weight_bytes:,}")
            for name, part in parts.items()
        ]
        show_table((heading, *numbers), [*rows, whole] if heading == "component" else rows, numbers=numbers)
        typer.echo("")
    size = "x".join(map(str, cost.size)) or "no image"
    typer.echo(
        f"Batch {cost.batch}, {size}; the file has {cost.file_bytes:,} bytes. A MAC is two operations."
    )
    for name in cost.uncounted:
        typer.echo(f"Not counted: {name}")
    if torch_macs is not None:
        same = torch_macs == cost.macs
        typer.echo("torch's counter says the same." if same else f"torch's counter says {torch_macs:,} MACs.")
