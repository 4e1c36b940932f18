"""The verbs `lomt inspect FACTORY` and `lomt inspect backbone`: they parse and print."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, cast

import typer
from typer.core import TyperGroup

from lomt.cli_options import (
    ExampleOption,
    FactoryArgument,
    KeywordOption,
    ProtectOption,
    VerboseOption,
    WeightsOption,
    open_factory,
    parse_size,
)
from lomt.errors import LomtError, UnknownNameError

__all__ = ["GRANULARITIES", "inspect_app"]

GRANULARITIES = ("block", "conv", "all")
_MOST_LINES = 5
"""On why removal is lossy, in text."""


class _InspectGroup(TyperGroup):
    """Takes what is no verb of its own as the factory of a model: `lomt inspect timm:resnet18`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        helps = ctx.help_option_names
        if args and args[0] not in self.commands and args[0] not in helps:
            args = ["model", *args]
        return super().parse_args(ctx, args)


inspect_app = typer.Typer(
    cls=_InspectGroup,
    help="Look at a model before pruning it, or at a backbone before building on it.",
    epilog="Example: lomt inspect timm:resnet18 --input 1x3x64x64",
    subcommand_metavar="FACTORY --input SHAPE | COMMAND [ARGS]...",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@inspect_app.command("model", epilog="Example: lomt inspect timm:resnet18 --input 1x3x64x64")
def inspect_model(
    factory: FactoryArgument,
    inputs: ExampleOption,
    weights: WeightsOption = None,
    keywords: KeywordOption = None,
    protect: ProtectOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    verbose: VerboseOption = 0,
) -> None:
    """Show the parts of a model, its coupled channels, and what is protected and why."""
    model, examples = open_factory(factory, inputs, weights, keywords, verbose)
    from lomt.pruning.inspection import inspect_structure
    from lomt.pruning.prune import analyse

    inspection = inspect_structure(analyse(model, examples, protect=tuple(protect or ())), model)
    if as_json:
        typer.echo(json.dumps(inspection.to_dict(), indent=2))
    else:
        _show_structure(inspection.to_dict())


@inspect_app.command(
    "backbone",
    epilog="Example: lomt inspect backbone resnet18 --size 96x128",
)
def inspect_backbone(
    name: Annotated[str, typer.Argument(metavar="NAME", help="timm's name of the backbone.")],
    size: Annotated[
        str, typer.Option("--size", metavar="HxW", help="Height and width of the image in pixels.")
    ] = "96x128",
    output_stride: Annotated[
        int | None, typer.Option("--output-stride", help="8, 16 or 32; the backbone's own if not given.")
    ] = None,
    granularity: Annotated[
        str, typer.Option("--granularity", metavar="block|conv|all", help="Which layers to list.")
    ] = "block",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List the layers a task could branch from, with what the backbone costs when cut after each."""
    if granularity not in GRANULARITIES:
        raise UnknownNameError("granularity", granularity, GRANULARITIES)
    height_width = parse_size(size)
    from dataclasses import asdict

    from lomt.models import BackboneSpec, Granularity, create_backbone, list_layers

    try:
        backbone = create_backbone(BackboneSpec(name, output_stride))
        layers = [
            asdict(layer) for layer in list_layers(backbone, height_width, cast(Granularity, granularity))
        ]
    except ValueError as error:  # a stride or a size that the backbone does not take
        raise LomtError(str(error)) from error
    if as_json:
        typer.echo(json.dumps(layers, indent=2))
    else:
        typer.echo(f"{name} at {size}; params and MACs are those of the backbone cut after the layer.")
        _show_layers(layers)


def _show_structure(inspection: Mapping[str, Any]) -> None:
    from lomt.terminal import show_table

    numbers = ("params", "share", "MACs")
    parts = [
        (part["name"], f"{part['params']:,}", f"{100 * part['share']:.1f} %", f"{part['macs']:,}")
        for part in inspection["parts"]
    ]
    show_table(("part", *numbers), parts, numbers=numbers)
    channels = inspection["coupled_channels"]
    rows = [
        (
            own["name"],
            str(own["count"]),
            own["part"],
            _counted(len(own["producers"]), "layer"),
            _first(own["consumers"]),
            "exact" if own["is_exact"] else "lossy",
        )
        for own in channels
        if own["protected"] is None
    ]
    typer.echo("")
    show_table(
        ("prunable", "channels", "part", "computed by", "read by", "removal"), rows, numbers=("channels",)
    )
    mixed = [own for own in channels if own["protected"] is None and own["mixers"]]
    for own in mixed[:_MOST_LINES]:
        typer.echo(f"Lossy: {own['name']}, because of {_first(own['mixers'])}")
    if len(mixed) > _MOST_LINES:
        typer.echo(f"Lossy: {len(mixed) - _MOST_LINES} more; --json says why")
    protected = [
        (own["name"], str(own["count"]), own["protected"]) for own in channels if own["protected"] is not None
    ]
    if protected:
        typer.echo("")
        show_table(("protected", "channels", "because"), protected, numbers=("channels",))
    if inspection["unused_layers"]:
        typer.echo(f"\nUnused layers: {_listing(inspection['unused_layers'], most=10)}")


def _first(names: list[str]) -> str:
    """Return a cell that does not grow with the number of names."""
    return " ".join([*names[:1], *([f"+{len(names) - 1}"] if len(names) > 1 else [])])


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _listing(names: list[str], most: int) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _show_layers(layers: list[dict[str, Any]]) -> None:
    from lomt.terminal import show_table

    numbers = ("channels", "stride", "params", "MACs")
    rows = [
        (
            layer["name"],
            layer["kind"],
            str(layer["channels"]),
            str(layer["reduction"]),
            f"{layer['params']:,}",
            f"{layer['macs']:,}",
            "yes" if layer["is_bypassable"] else "",
        )
        for layer in layers
    ]
    show_table(("layer", "kind", *numbers, "bypassable"), rows, numbers=numbers)
