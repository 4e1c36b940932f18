"""The verb `lomt prune` on models of any origin: it parses and prints."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from lomt.cli_options import (
    ExampleOption,
    FactoryArgument,
    KeywordOption,
    ProtectOption,
    VerboseOption,
    WeightsOption,
    open_factory,
)
from lomt.errors import LomtError

__all__ = ["prune_model"]


def prune_model(
    factory: FactoryArgument,
    inputs: ExampleOption,
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
    model, examples = open_factory(factory, inputs, weights, keywords, verbose)
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
