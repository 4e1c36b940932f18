"""The verbs that make and check files, `lomt export` and `lomt verify`: they parse and print."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lomt.cli_options import (
    KeywordOption,
    RunStage,
    ShapeOption,
    VerboseOption,
    WeightsOption,
    open_model_source,
    refuse_options,
)
from lomt.errors import LomtError

if TYPE_CHECKING:
    from lomt.deploy import Interface
    from lomt.pipeline.model_source import ModelSource

__all__ = ["export_verb", "verify"]

_RECIPE_SUFFIXES = (".yaml", ".yml")
_MISMATCH = 1

_AgainstOption = typer.Option(
    "--against",
    metavar="RUN|DIR|FACTORY",
    help="What the file was made from: a run, a saved model, a factory.",
)


def export_verb(run_stage: RunStage) -> Callable[..., None]:
    """Make the verb that serves recipes, whose stage it runs, and models, which it writes as files.

    Args:
        run_stage: Runs the stage when the argument is a recipe.
    """

    def export(
        source: Annotated[
            str,
            typer.Argument(
                metavar="RECIPE|RUN|DIR|FACTORY",
                help="A recipe, whose stage is run; or a run's directory, a saved model's directory, "
                "package.module:callable, path/file.py:callable or timm:NAME, for one file.",
            ),
        ],
        out: Annotated[
            Path | None,
            typer.Option("--out", metavar="FILE|DIR", help="The ONNX file; for a recipe the run directory."),
        ] = None,
        overrides: Annotated[
            list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="For a recipe: change a key.")
        ] = None,
        inputs: ShapeOption = None,
        tasks: Annotated[
            list[str] | None,
            typer.Option(
                "--task", metavar="NAME", help="Only this output and what it needs. May be repeated."
            ),
        ] = None,
        per_task: Annotated[
            bool,
            typer.Option("--per-task", help="Also write a file NAME.onnx for each task, beside the first."),
        ] = False,
        opset: Annotated[int, typer.Option("--opset", metavar="N", help="ONNX operator set.")] = 18,
        fixed_batch: Annotated[
            bool, typer.Option("--fixed-batch", help="Take the batch size of --input and no other.")
        ] = False,
        fixed_size: Annotated[
            bool, typer.Option("--fixed-size", help="Take one height and width and no other; runs faster.")
        ] = False,
        bake: Annotated[
            bool, typer.Option("--bake-preprocessing", help="Let the file subtract mean and divide by std.")
        ] = False,
        mean: Annotated[
            str | None,
            typer.Option("--mean", metavar="R,G,B", help="Of images in 0 to 1; runs and timm know it."),
        ] = None,
        std: Annotated[
            str | None, typer.Option("--std", metavar="R,G,B", help="Standard deviation, likewise.")
        ] = None,
        channel_order: Annotated[
            str, typer.Option("--channel-order", metavar="RGB|BGR", help="Of the images a baked file takes.")
        ] = "RGB",
        highest: Annotated[
            int,
            typer.Option(
                "--highest", metavar="1|255", help="Largest value in the images a baked file takes."
            ),
        ] = 1,
        answer: Annotated[
            str,
            typer.Option(
                "--answer",
                metavar="raw|probabilities|labels",
                help="Logits as they are; softmax, sigmoid and unit normals; or labels by arg max.",
            ),
        ] = "raw",
        kinds: Annotated[
            list[str] | None,
            typer.Option(
                "--kind", metavar="TASK=KIND", help="What a task is, such as depth=depth; runs know it."
            ),
        ] = None,
        weights: WeightsOption = None,
        keywords: KeywordOption = None,
        verbose: VerboseOption = 0,
    ) -> None:
        """Write verified ONNX files, with all tasks or one; of a recipe, run the stage that does."""
        if is_recipe(source):
            refuse_options(
                {"--input": inputs, "--task": tasks, "--per-task": per_task or None, "--kind": kinds},
                f"with the recipe {source}",
                "It says what is exported; give a run or a model.",
            )
            run_stage(source, overrides, out, "export", verbose)
            return
        path = _check_out(source, out, overrides)
        found = open_model_source(source, inputs, weights, keywords, verbose)
        try:
            interface = _interface(found.interface, mean, std, channel_order, highest, bake, answer, kinds)
            _export(found, path, tasks, per_task, interface, opset, fixed_batch, fixed_size)
        except (ValueError, TypeError) as error:  # an argument that only the model can tell to be wrong
            raise LomtError(str(error)) from error

    return export


def is_recipe(source: str) -> bool:
    """Say whether a text names a recipe, not a model: a YAML file, or a name that is no directory and no factory."""
    if Path(source).is_dir():
        return False
    return source.lower().endswith(_RECIPE_SUFFIXES) or ":" not in source


def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The ONNX file.")],
    against: Annotated[str, _AgainstOption],
    inputs: ShapeOption = None,
    no_metrics: Annotated[
        bool,
        typer.Option("--no-metrics", help="Of a run, leave its data alone: random images, no task metrics."),
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(
            "--json", metavar="FILE", help="Where the report goes; NAME.verification.json if not given."
        ),
    ] = None,
    weights: WeightsOption = None,
    keywords: KeywordOption = None,
    verbose: VerboseOption = 0,
) -> None:
    """Compare an ONNX file with its model: names, shapes, values, facts, task metrics; exit status 1 if it differs."""
    if not file.is_file():
        raise LomtError(f"Expected `{file}` to be an ONNX file, but there is none. Export it first.")
    source = open_model_source(against, inputs, weights, keywords, verbose, uses_data=not no_metrics)
    from lomt.pipeline.verify_file import verify_file

    found = verify_file(file, source)
    place = report or report_path(file)
    _write_json(place, found.to_dict())
    if found.values is not None:
        typer.echo(str(found.values))
    for task, metrics in found.metrics.items():
        typer.echo(f"{task}: {', '.join(f'{name} {value:.4g}' for name, value in metrics.items())}")
    if not found.passed:
        lines = "\n  ".join(found.problems)
        typer.echo(f"error: {file} is not {source.name}:\n  {lines}\nReport in {place}.", err=True)
        raise typer.Exit(_MISMATCH)
    typer.echo(f"{file} computes what {source.name} does. Report in {place}.")


def report_path(file: Path) -> Path:
    """Return where the verification of a file goes."""
    return file.with_name(f"{file.stem}.verification.json")


def _export(
    source: "ModelSource",
    path: Path,
    tasks: list[str] | None,
    per_task: bool,
    interface: "Interface",
    opset: int,
    fixed_batch: bool,
    fixed_size: bool,
) -> None:
    from lomt.deploy import count_cost, export_files
    from lomt.deploy.inference_copy import inference_copy, task_outputs

    images = source.file_images(interface)
    files: dict[Path, list[str] | None] = {path: tasks}
    if per_task:
        known = tasks or list(task_outputs(inference_copy(source.model), source.images[:1]))
        files.update({path.with_name(f"{task}.onnx"): [task] for task in known})
        if len(files) <= len(known):
            raise LomtError(
                f"Expected `--out` not to be the file of a task, but got {path}. Choose another name."
            )
    exported = export_files(
        source.model,
        images[: source.batch if fixed_batch else 1],
        files,
        opset=opset,
        interface=interface,
        fixed_batch=fixed_batch,
        fixed_size=fixed_size,
        samples=images,
        further_check=source.check(interface),
    )
    report = {file.path.name: file.to_dict() for file in exported}
    _write_json(report_path(path), {"passed": True, "against": source.name, "files": report})
    from lomt.terminal import show_table

    numbers = ("parameters", "MACs", "bytes", "largest difference")
    rows = []
    for file in exported:
        counted = count_cost(file.path)
        worst = max(check.max_rel for check in file.verification.checks) if file.verification else 0.0
        shown = (f"{counted.params:,}", f"{counted.macs:,}", f"{counted.file_bytes:,}", f"{worst:.1e}")
        rows.append((str(file.path), ", ".join(file.tasks), *shown))
    show_table(("file", "tasks", *numbers), rows, numbers=numbers)
    sizes = "x".join(map(str, images.shape[-2:]))
    reason = exported[-1].reason
    typer.echo(
        f"Images are {sizes} only: {reason}."
        if reason
        else f"Images may have any size; checked at {sizes} and another."
    )
    typer.echo(f"Verified against {source.name}; report in {report_path(path)}.")


def _interface(
    own: "Interface",
    mean: str | None,
    std: str | None,
    channel_order: str,
    highest: int,
    bake: bool,
    answer: str,
    kinds: list[str] | None,
) -> "Interface":
    from lomt.deploy import Preprocessing

    if (mean is None) != (std is None):
        raise LomtError("Expected `--mean` and `--std` together, but got one of them.")
    preprocessing = own.preprocessing
    if mean is not None and std is not None:
        preprocessing = Preprocessing(_numbers("--mean", mean), _numbers("--std", std))
    if bake and preprocessing is None:
        raise LomtError(
            "Expected `--mean` and `--std` for `--bake-preprocessing`, because the model does not say them."
        )
    if not bake and (channel_order, highest) != ("RGB", 1):
        raise LomtError(
            "Expected `--channel-order` and `--highest` together with `--bake-preprocessing` only."
        )
    if preprocessing is not None:
        preprocessing = replace(preprocessing, channel_order=channel_order, highest=highest, is_baked=bake)
    given = dict(own.kinds)
    for text in kinds or ():
        task, equals, kind = text.partition("=")
        if not equals:
            raise LomtError(f"Expected `--kind` to be TASK=KIND, such as depth=depth, but got {text}.")
        given[task] = kind
    return replace(own, preprocessing=preprocessing, kinds=given, answer=answer)


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise LomtError(f"Expected `{option}` to be numbers with commas between, but got {text}.") from None


def _check_out(source: str, out: Path | None, overrides: list[str] | None) -> Path:
    if overrides:
        raise LomtError(f"Expected `--set` only with a recipe, but {source} is a model.")
    if out is None or out.suffix != ".onnx":
        given = "nothing" if out is None else str(out)
        raise LomtError(f"Expected `--out` to be an ONNX file, such as model.onnx, but got {given}.")
    if not out.parent.is_dir():
        raise LomtError(f"Expected the folder of `--out {out}` to exist. Make it first.")
    return out


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    from lomt.atomic_file import write_text_atomically

    write_text_atomically(path, json.dumps(content, indent=2) + "\n")
