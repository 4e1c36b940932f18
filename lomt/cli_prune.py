"""The verbs on models of any origin, `lomt inspect FACTORY` and `lomt prune`: they parse and print."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from lomt.cli_options import (
    KeywordOption,
    VerboseOption,
    WeightsOption,
    make_local_modules_known,
    parse_keywords,
)
from lomt.errors import LomtError

__all__ = ["InspectGroup", "inspect_model", "prune_model"]

_MOST_LINES = 5
"""On why removal is lossy, in text."""

FactoryArgument = Annotated[
    str,
    typer.Argument(
        metavar="FACTORY",
        help="package.module:callable, path/file.py:callable, timm:NAME, or a directory with a saved model.",
    ),
]
InputOption = Annotated[
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


class InspectGroup(TyperGroup):
    """Takes what is no verb of its own as the factory of a model: `lomt inspect timm:resnet18`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        helps = ctx.help_option_names
        if args and args[0] not in self.commands and args[0] not in helps:
            args = ["model", *args]
        return super().parse_args(ctx, args)


def inspect_model(
    factory: FactoryArgument,
    inputs: InputOption,
    weights: WeightsOption = None,
    keywords: KeywordOption = None,
    protect: ProtectOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    verbose: VerboseOption = 0,
) -> None:
    """Show the parts of a model, its coupled channels, and what is protected and why."""
    model, examples = _open(factory, inputs, weights, keywords, verbose)
    from lomt.pruning.inspection import inspect_structure
    from lomt.pruning.prune import analyse

    inspection = inspect_structure(analyse(model, examples, protect=tuple(protect or ())), model)
    if as_json:
        typer.echo(json.dumps(inspection.to_dict(), indent=2))
    else:
        _show(inspection.to_dict())


def prune_model(
    factory: FactoryArgument,
    inputs: InputOption,
    weights: WeightsOption = None,
    keywords: KeywordOption = None,
    channels: Annotated[
        float | None, typer.Option("--channels", metavar="R", help="Keep at most this fraction of channels.")
    ] = None,
    params: Annotated[
        float | None, typer.Option("--params", metavar="R", help="Keep at most this fraction of parameters.")
    ] = None,
    macs: Annotated[
        float | None,
        typer.Option("--macs", metavar="R", help="Keep at most this fraction of multiply-accumulates."),
    ] = None,
    latency_ms: Annotated[
        float | None,
        typer.Option("--latency-ms", metavar="T", help="Measured onnxruntime latency to stay below."),
    ] = None,
    importance: Annotated[
        str,
        typer.Option(
            "--importance",
            metavar="NAME",
            help="How channels are scored; what reads gradients takes those of the squared outputs.",
        ),
    ] = "magnitude",
    divisor: Annotated[
        str | None,
        typer.Option(
            "--divisor",
            metavar="N|auto",
            help="What widths are multiples of; auto measures it. Default: of 16, or 8 itself.",
        ),
    ] = None,
    threads: Annotated[
        int, typer.Option("--threads", metavar="N", help="Threads of onnxruntime in measurements.")
    ] = 1,
    ranking: Annotated[
        str,
        typer.Option(
            "--ranking", metavar="global|component|layer", help="Among which channels scores compare."
        ),
    ] = "global",
    protect: ProtectOption = None,
    exact: Annotated[
        bool, typer.Option("--exact/--no-exact", help="First remove what no layer reads.")
    ] = True,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where the pruned model goes.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and write nothing.")] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Also say for every layer what is kept and why.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
    verbose: VerboseOption = 0,
) -> None:
    """Make any model smaller: without a budget only what nobody reads goes, which changes no output."""
    budget = _one_budget({"channels": channels, "params": params, "macs": macs, "latency_ms": latency_ms})
    step = _parse_divisor(divisor)
    if threads < 1:
        raise LomtError(f"Expected `--threads` to be at least 1, but got {threads}.")
    directory = None if dry_run else _check_out(out)
    model, examples = _open(factory, inputs, weights, keywords, verbose)
    from lomt.compress.prune import prune
    from lomt.pruning.importance import USES_LOSSES
    from lomt.pruning.task_importance import SquaredOutputs

    settings: dict[str, Any] = {
        **budget,
        "importance": importance,
        "divisor": step,
        "ranking": ranking,
        "exact": exact,
        "protect": tuple(protect or ()),
        "threads": threads,
    }
    if importance in USES_LOSSES:
        settings["losses"] = SquaredOutputs([examples])
    try:
        result = prune(model, examples, **settings)
    except ValueError as error:  # an argument that only the model can tell to be wrong
        raise LomtError(str(error)) from error
    if directory is not None:
        from lomt.pruning.storage import save

        save(result, directory)
    if as_json:
        written = None if directory is None else str(directory)
        typer.echo(json.dumps({"directory": written, "plan": result.plan.to_dict()}, indent=2))
        return
    typer.echo(str(result.plan))
    if explain:
        typer.echo(f"\n{result.plan.explain()}")
    typer.echo("Nothing was written." if directory is None else f"Written to {directory}.")


def _open(
    factory: str, inputs: list[str], weights: Path | None, keywords: list[str] | None, verbosity: int
) -> tuple[Any, Any]:
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


def _one_budget(budgets: Mapping[str, float | None]) -> dict[str, float]:
    given = {name: value for name, value in budgets.items() if value is not None}
    options = [f"--{name.replace('_', '-')}" for name in given]
    if len(given) > 1:
        raise LomtError(f"Expected one budget at most, but got {' and '.join(options)}.")
    for option, (name, value) in zip(options, given.items(), strict=True):
        if name == "latency_ms" and not (0 < value < math.inf):
            raise LomtError(f"Expected `{option}` to be above 0 ms, but got {value}.")
        if name != "latency_ms" and not 0 < value <= 1:
            raise LomtError(f"Expected `{option}` to be a fraction above 0 and at most 1, but got {value}.")
    return given


def _parse_divisor(text: str | None) -> int | str | None:
    if text is None or text == "auto":
        return text
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise LomtError(f"Expected `--divisor` to be a positive integer or auto, but got {text}.")
    return int(text)


def _check_out(out: Path | None) -> Path:
    if out is None:
        raise LomtError("Expected `--out DIR` to say where the pruned model goes, or `--dry-run`.")
    from lomt.pruning.structure_file import is_pruned_model

    if out.exists() and not out.is_dir():
        raise LomtError(f"Expected `--out` to be a directory, but {out} is a file.")
    if out.is_dir() and any(out.iterdir()) and not is_pruned_model(out):
        raise LomtError(
            f"Expected `--out` to be new, empty or a pruned model's directory, but {out} holds other files."
        )
    return out


def _show(inspection: Mapping[str, Any]) -> None:
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
