"""The verb `lomt adopt`: it parses and prints."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from lomt.cli_options import (
    ExampleOption,
    FactoryArgument,
    KeywordOption,
    VerboseOption,
    WeightsOption,
    open_factory,
    parse_keywords,
)
from lomt.errors import LomtError

__all__ = ["ADOPT_EXAMPLE", "adopt_model"]

ADOPT_EXAMPLE = (
    "Example: lomt adopt my_network.py:build --input 1x3x96x128 --output segmentation=0 --output depth=1 "
    "--out model.yaml"
)


def adopt_model(
    factory: FactoryArgument,
    inputs: ExampleOption,
    weights: WeightsOption = None,
    keywords: KeywordOption = None,
    outputs: Annotated[
        list[str] | None,
        typer.Option(
            "--output",
            metavar="TASK=PLACE",
            help="Where a task's prediction is in what the model returns, such as depth=1 or depth=heads.depth; not "
            "needed for a dictionary by task. May be repeated.",
        ),
    ] = None,
    backbone: Annotated[
        list[str] | None,
        typer.Option(
            "--backbone",
            metavar="MODULE",
            help="A module of the backbone; found if not given. May be repeated.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write the recipe's block `model` there.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    verbose: VerboseOption = 0,
) -> None:
    """Take your own multitask model apart: propose backbone, decoders, candidate layers and the recipe's block."""
    places = _places(outputs or [])
    model, examples = open_factory(factory, inputs, weights, keywords, verbose)
    if isinstance(examples, Mapping):
        raise LomtError(
            "Expected `--input` without names, because the model's inputs are given in order, but got "
            f"{', '.join(examples)}."
        )
    from lomt.atomic_file import write_text_atomically
    from lomt.models import adopt, describe, recipe_block

    given = examples if isinstance(examples, tuple) else (examples,)
    adoption = adopt(model, given, outputs=places, backbone=tuple(backbone or ()))
    found = describe(adoption)
    block = recipe_block(
        adoption,
        factory,
        kwargs=parse_keywords(keywords or []),
        weights=None if weights is None else str(weights),
        outputs=places,
    )
    if as_json:
        typer.echo(json.dumps({**found, "recipe": block}, indent=2))
    else:
        _show(found)
        typer.echo("")
        typer.echo(block, nl=False)
    if out is not None:
        write_text_atomically(out, block)
        if not as_json:
            typer.echo(f"Written to {out}.")


def _places(texts: list[str]) -> dict[str, str]:
    places = {}
    for text in texts:
        task, equals, place = text.partition("=")
        if not (task and equals and place):
            raise LomtError(f"Expected `--output` to be TASK=PLACE, such as depth=1, but got {text}.")
        places[task] = place
    return places


def _show(found: Mapping[str, Any]) -> None:
    from lomt.terminal import show_table

    shared = found["backbone"]
    rows = [("backbone", ", ".join(shared["modules"]), f"{shared['params']:,}", "", "")]
    for task, own in found["decoders"].items():
        shape = "x".join(map(str, own["prediction"]))
        rows.append((task, ", ".join(own["modules"]), f"{own['params']:,}", ", ".join(own["reads"]), shape))
    show_table(("part", "modules", "params", "reads", "prediction"), rows, numbers=("params",))
    typer.echo("")
    numbers = ("channels", "stride", "params", "MACs")
    layers = [
        (
            own["name"],
            own["kind"],
            str(own["channels"]),
            str(own["reduction"]),
            f"{own['params']:,}",
            f"{own['macs']:,}",
        )
        for own in found["layers"]
    ]
    show_table(("layer to read from", "kind", *numbers), layers, numbers=numbers)
    for module, reason in found["not_looked_into"].items():
        typer.echo(f"Kept whole: {module}, because {reason}")
    if len(found["inputs"]) > 1:
        count, names = len(found["inputs"]), ", ".join(found["inputs"])
        way = (
            "Under `inputs` name the dataset's target that each after the first is."
            if found["inputs_are_maps"]
            else "Recipes give images and maps of their size only: it can be pruned with `lomt prune`, not run through "
            "a recipe."
        )
        typer.echo(f"The model takes {count} inputs ({names}). {way}")
