"""The command line: it parses and prints; nothing heavy is imported before a verb runs."""

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from lomt import __version__
from lomt.cli_adopt import ADOPT_EXAMPLE, adopt_model
from lomt.cli_bench import BENCH_EXAMPLE, bench_verb
from lomt.cli_cost import cost
from lomt.cli_data import data_app
from lomt.cli_deploy import export_verb, verify
from lomt.cli_inspect import inspect_app
from lomt.cli_options import VerboseOption, make_local_modules_known
from lomt.cli_prune import prune_model
from lomt.cli_quantize import QUANTIZE_EXAMPLE, quantize_verb
from lomt.errors import ExportMismatchError, LomtError, UnknownNameError

__all__ = ["app", "main"]

STAGES = ("train", "locate", "rewire", "sparsify", "prune", "finetune", "export", "quantize", "bench")
_DIFFERS, _ERROR, _INTERRUPTED = 1, 2, 130


class _Group(TyperGroup):
    """Turns what a user can mend into one line and an exit status; other errors keep their traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ExportMismatchError as error:
            _fail(str(error), _DIFFERS)
        except LomtError as error:
            _fail(str(error))
        except BrokenPipeError:
            raise  # the reader of our output has gone: typer ends without a word
        except OSError as error:
            _fail(_os_error_text(error))
        except KeyboardInterrupt:
            typer.echo("Interrupted.", err=True)
            raise typer.Exit(_INTERRUPTED) from None


app = typer.Typer(
    cls=_Group,
    help="Structured-sparsity pruning of multitask vision models: find the layer each task needs, "
    "cut the rest, export and measure.",
    epilog="Example: lomt run rooms_demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(is_asked: bool) -> bool:
    if is_asked:
        typer.echo(f"lomt {__version__}")
        raise typer.Exit()
    return is_asked


RecipeArgument = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A YAML file or a shipped recipe's name.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a key, such as train.epochs=3. May be repeated."),
]
OutOption = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="Run directory; runs/NAME if not given.")
]

BranchPointsOption = Annotated[
    Path | None,
    typer.Option(
        "--branch-points",
        metavar="FILE",
        exists=True,
        dir_okay=False,
        help="YAML with a layer for every task, instead of what locate found.",
    ),
]


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Take the options that stand before the verb."""


@app.command("run", epilog="Example: lomt run rooms_demo --set train.epochs=2 --out runs/short")
def run_stages(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    out: OutOption = None,
    first: Annotated[str, typer.Option("--from", metavar="STAGE", help="First stage to run.")] = STAGES[0],
    last: Annotated[str, typer.Option("--until", metavar="STAGE", help="Last stage to run.")] = STAGES[-1],
    branch_points: BranchPointsOption = None,
    verbose: VerboseOption = 0,
) -> None:
    """Run all stages, or those from --from until --until: train, locate, rewire, sparsify, prune,
    finetune, export, quantize, bench."""
    for stage in (first, last):
        if stage not in STAGES:
            raise UnknownNameError("stage", stage, STAGES)
    if STAGES.index(first) > STAGES.index(last):
        _fail(f"Expected `--from` to come before `--until`, but got {first} and {last}.")
    choices: dict[str, Any] = {} if branch_points is None else {"branch_points": branch_points}
    _run(recipe, overrides, out, verbose, first=first, last=last, **choices)


def _add_stage(stage: str, summary: str, example: str = "rooms_demo") -> Callable[..., None]:
    def verb(
        recipe: RecipeArgument,
        overrides: SetOption = None,
        out: OutOption = None,
        verbose: VerboseOption = 0,
    ) -> None:
        directory = _run(recipe, overrides, out, verbose, first=stage, last=stage)
        if stage == "locate" and _is_first_process():
            typer.echo((directory / "locate" / "report.txt").read_text(encoding="utf-8"))

    return app.command(stage, help=summary, epilog=f"Example: lomt {stage} {example}")(verb)


_add_stage("train", "Train the dense multitask model.")
_add_stage(
    "locate",
    "Find the backbone layer each task needs, by sparse training: of each task alone, or of all at once "
    "(--set locate.method=joint).",
)


@app.command("rewire", epilog="Example: lomt rewire rooms_demo --set rewire.start=dense")
def rewire(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    out: OutOption = None,
    branch_points: BranchPointsOption = None,
    verbose: VerboseOption = 0,
) -> None:
    """Train the smaller model: decoders at the branch points, no backbone after the deepest."""
    choices: dict[str, Any] = {} if branch_points is None else {"branch_points": branch_points}
    _run(recipe, overrides, out, verbose, first="rewire", last="rewire", **choices)


def _run_stage(
    recipe: str, overrides: list[str] | None, out: Path | None, stage: str, verbosity: int
) -> None:
    _run(recipe, overrides, out, verbosity, first=stage, last=stage)


app.command("quantize", epilog=QUANTIZE_EXAMPLE)(quantize_verb(_run_stage))
app.command("bench", epilog=BENCH_EXAMPLE)(bench_verb(_run_stage))
_add_stage(
    "sparsify",
    "Make the rewired model sparse to a target, remove what that leaves needless, and heal it.",
    example="rooms_sparsify",
)
_add_stage(
    "finetune",
    "Train one task alone, in the parts of the network that matter to it; all else stays as it is.",
    example="rooms_demo --set finetune.target=depth",
)


@app.command("group", epilog="Example: lomt group rooms_demo --set group.groups=2")
def group(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    out: OutOption = None,
    groups: Annotated[
        Path | None,
        typer.Option(
            "--groups",
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="YAML with lists of tasks: write the recipes of these groups, measure nothing.",
        ),
    ] = None,
    verbose: VerboseOption = 0,
) -> None:
    """Find which tasks share a network: affinities or memberships, heat map, groups and a recipe for each group.

    Methods (--set group.method=...): gradtag, lookahead, cosine, dmtg, data_maps; affinities are clustered by sdp,
    spectral or tag (--set group.clustering=...).
    """
    _run(recipe, overrides, out, verbose, verb="group", groups=groups)


@app.command("add", epilog="Example: lomt add rooms_demo --network runs/three_tasks/dense --task edges")
def add(
    recipe: RecipeArgument,
    network: Annotated[
        Path,
        typer.Option("--network", metavar="DIR", help="Saved network, such as runs/NAME/rewired; only read."),
    ],
    task: Annotated[
        str | None,
        typer.Option("--task", metavar="TASK", help="The recipe's task to add; add.task if not given."),
    ] = None,
    overrides: SetOption = None,
    out: OutOption = None,
    verbose: VerboseOption = 0,
) -> None:
    """Add a task to a trained network whose other tasks answer as before, bit for bit (TAPS).

    Only the layers that the new task has to change are stored and computed a second time: more
    --set add.penalty=... leaves more of them shared.
    """
    _run(recipe, overrides, out, verbose, verb="add", network=network, task=task)


@app.command("validate", epilog="Example: lomt validate rooms_demo --set train.epochs=3")
def validate(recipe: RecipeArgument, overrides: SetOption = None) -> None:
    """Find every mistake in a recipe, without touching data or a device; exit status 2 if there is one."""
    from lomt.recipe import load_recipe

    make_local_modules_known()
    settings = load_recipe(recipe, overrides or ())
    tasks = ", ".join(settings.tasks)
    network = settings.model.factory or settings.model.backbone.name
    typer.echo(f"Recipe {recipe} is valid: {tasks} on {network}.")


@app.command("recipes", epilog="Example: lomt recipes")
def recipes(
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON schema of recipes, for editors.")
    ] = False,
) -> None:
    """List the shipped recipes."""
    from lomt.recipe import recipe_schema, shipped_recipes
    from lomt.terminal import show_table

    if schema:
        typer.echo(json.dumps(recipe_schema(), indent=2))
        return
    shipped = shipped_recipes()
    if not shipped:
        raise LomtError("There are no shipped recipes in this installation. Reinstall lomt, or give a file.")
    show_table(("recipe", "purpose"), shipped)


app.add_typer(inspect_app, name="inspect")
app.add_typer(data_app, name="data")
_EXAMPLE = "Example: lomt prune timm:resnet18 --input 1x3x64x64 --macs 0.5 --dry-run"
app.command("prune", epilog=_EXAMPLE)(prune_model)
app.command("adopt", epilog=ADOPT_EXAMPLE)(adopt_model)


def main() -> None:
    """Run the command line and exit."""
    app(prog_name="lomt")


def _run(
    recipe: str,
    overrides: list[str] | None,
    out: Path | None,
    verbosity: int,
    verb: str = "run",
    **choices: Any,
) -> Path:
    from lomt.recipe import load_recipe
    from lomt.terminal import configure_logging, terminal_progress

    configure_logging(verbosity)
    make_local_modules_known()
    settings = load_recipe(recipe, overrides or ())
    directory = Path("runs") / settings.name if out is None else out
    try:
        from lomt import pipeline

        with terminal_progress() as progress:
            summary = getattr(pipeline, verb)(settings, directory, progress=progress, **choices)
    except KeyboardInterrupt:
        typer.echo("Interrupted. Run the same command again to go on from the last checkpoint.", err=True)
        raise typer.Exit(_INTERRUPTED) from None
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(directory)  # a full disk does not say which file it was
        raise
    if _is_first_process():
        typer.echo(str(summary))
    return directory


def _is_first_process() -> bool:
    return os.environ.get("RANK", "0") == "0"  # one of several processes says it for all


def _os_error_text(error: OSError) -> str:
    if error.strerror is None:
        return str(error) or type(error).__name__
    return f"{error.strerror}: {error.filename}" if error.filename else error.strerror


def _fail(text: str, status: int = _ERROR) -> NoReturn:
    logging.getLogger("lomt").debug("Where it happened:", exc_info=True)
    typer.echo(f"error: {text}", err=True)
    raise typer.Exit(status)


_EXAMPLE = "Of a run: lomt export runs/demo --out model.onnx\n\nExample: lomt export rooms_demo"
app.command("export", epilog=_EXAMPLE)(export_verb(_run_stage))
_EXAMPLE = "Example: lomt verify runs/demo/deploy/model.onnx --against runs/demo"
app.command("verify", epilog=_EXAMPLE)(verify)
app.command("cost", epilog="Example: lomt cost timm:resnet18 --input 1x3x96x128")(cost)


if __name__ == "__main__":
    main()
