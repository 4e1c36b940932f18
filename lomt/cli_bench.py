"""The verb `lomt bench`: a stage of a recipe, or a measurement of files and models of any origin."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from lomt.cli_options import (
    InputSizeOption,
    JsonOption,
    RunStage,
    SetOption,
    VerboseOption,
    in_options,
    make_local_modules_known,
    parse_size,
    refuse_options,
)
from lomt.errors import LomtError

__all__ = ["BENCH_EXAMPLE", "bench_verb"]

BENCH_EXAMPLE = "Example: lomt bench rooms_demo"

_MOST_LAYERS = 15
_CHANNELS = 3


def bench_verb(run_stage: RunStage) -> Callable[..., None]:
    """Return the verb ``bench``.

    Args:
        run_stage: Runs the stage when the argument is a recipe.
    """

    def bench(
        subjects: Annotated[
            list[str],
            typer.Argument(
                metavar="RECIPE | NETWORK...",
                help="A recipe; or ONNX files, factories such as timm:resnet18 or saved models' directories, of which "
                "the first is compared with the others; or a run directory.",
            ),
        ],
        provider: Annotated[
            str | None,
            typer.Option(
                "--provider",
                metavar="cpu|cuda|tensorrt|openvino|torch|torch-compile",
                help="What runs the networks; cpu if not given.",
            ),
        ] = None,
        device: Annotated[
            str | None,
            typer.Option("--device", metavar="cpu|cuda", help="Where torch runs; cpu if not given."),
        ] = None,
        threads: Annotated[
            int | None,
            typer.Option("--threads", metavar="N", help="Threads within an operator; 1 if not given."),
        ] = None,
        batch: Annotated[
            str | None,
            typer.Option(
                "--batch", metavar="N[,N...]", help="Images a run, each measured by itself; 1 if not given."
            ),
        ] = None,
        input_size: InputSizeOption = None,
        quick: Annotated[bool, typer.Option("--quick", help="A tenth of the time, wider intervals.")] = False,
        seconds: Annotated[
            float | None,
            typer.Option("--seconds", metavar="S", help="Recorded seconds a network; 10, or 1 with --quick."),
        ] = None,
        rounds: Annotated[
            int | None,
            typer.Option("--rounds", metavar="N", help="Fresh processes; 10, or 5 with --quick."),
        ] = None,
        profile: Annotated[
            bool, typer.Option("--profile", help="Also say which layers the time goes to.")
        ] = False,
        any_outputs: Annotated[
            bool, typer.Option("--any-outputs", help="Compare networks with other outputs.")
        ] = False,
        json_file: JsonOption = None,
        overrides: SetOption = None,
        out: Annotated[
            Path | None, typer.Option("--out", metavar="DIR", help="Of a recipe: the run directory.")
        ] = None,
        verbose: VerboseOption = 0,
    ) -> None:
        """Measure latency: a recipe's networks, or any against the first: lomt bench a.onnx b.onnx --quick."""
        of_files = {
            "--provider": provider,
            "--device": device,
            "--threads": threads,
            "--batch": batch,
            "--input-size": input_size,
            "--seconds": seconds,
            "--rounds": rounds,
            "--quick": quick or None,
            "--profile": profile or None,
            "--any-outputs": any_outputs or None,
            "--json": json_file,
        }
        if _is_recipe(subjects):
            refuse_options(
                of_files, f"with recipe {subjects[0]}", "Its block `bench` says that; change it with --set."
            )
            run_stage(subjects[0], overrides, out, "bench", verbose)
            return
        refuse_options({"--set": overrides, "--out": out}, "with files", "They belong to a recipe.")
        from lomt.terminal import configure_logging

        configure_logging(verbose)
        options = {
            "provider": provider or "cpu",
            "device": device or "cpu",
            "threads": 1 if threads is None else threads,
            "rounds": rounds,
            "seconds": seconds,
            "quick": quick,
            "any_outputs": any_outputs,
        }
        _bench_files(subjects, options, _batches(batch), input_size, profile, json_file)

    return bench


def _is_recipe(subjects: Sequence[str]) -> bool:
    networks = [subject for subject in subjects if _is_network(subject)]
    if not networks and len(subjects) == 1:
        return True
    if len(networks) < len(subjects):
        other = next(subject for subject in subjects if subject not in networks)
        raise LomtError(
            "Expected one recipe, or only ONNX files, factories and saved models' directories, but got "
            f"{other} among {len(subjects)} arguments. A factory has a colon, as timm:resnet18; a directory has to "
            "exist."
        )
    return False


def _is_network(subject: str) -> bool:
    return subject.endswith(".onnx") or ":" in subject or Path(subject).is_dir()


def _bench_files(
    subjects: Sequence[str],
    options: dict[str, Any],
    batches: Sequence[int],
    input_size: str | None,
    profile: bool,
    json_file: Path | None,
) -> None:
    from lomt.deploy.latency_profile import check_profile
    from lomt.deploy.latency_schema import write_latency
    from lomt.deploy.providers import check_provider

    if json_file is not None and len(batches) > 1:
        raise LomtError(
            f"Expected one `--batch` with `--json`, which holds one measurement, but got {len(batches)}."
        )
    size = None if input_size is None else parse_size(input_size, "--input-size")
    if profile:
        check_profile(options["provider"])
    with TemporaryDirectory(prefix="lomt-networks-") as folder:
        try:
            check_provider(options["provider"], options["device"])
            for batch in batches:
                arms = _arms(subjects, options["provider"], size, batch, Path(folder))
                content = _measure(arms, {**options, "batch": batch}, size, profile)
                if json_file is not None:
                    write_latency(content, json_file)
        except ValueError as error:  # a number or a size that only the measurement can tell to be wrong
            if isinstance(error, LomtError):
                raise
            raise LomtError(in_options(str(error))) from error


def _measure(
    arms: Mapping[str, Path | str], options: dict[str, Any], size: tuple[int, int] | None, profile: bool
) -> dict[str, Any]:
    """Measure, print, and return what the JSON file holds."""
    from lomt.deploy import measure_latency, profile_layers
    from lomt.deploy.providers import reads_onnx
    from lomt.terminal import show_table

    channels = 0 if reads_onnx(options["provider"]) else _CHANNELS
    shape = None if size is None else (channels, *size)
    report = measure_latency(arms, baseline=next(iter(arms)), input_shape=shape, **options)
    heading, *rows = report.rows()
    typer.echo(report.heading)
    show_table(heading, rows, numbers=[name for name in heading[1:] if not name.startswith("speed-up")])
    for line in report.notes():
        typer.echo(line)
    content = report.to_dict(include_times=True)
    if profile:
        content["profile"] = {}
        own = {name: options[name] for name in ("provider", "threads", "batch")}
        for name, path in arms.items():
            layers = profile_layers(Path(path), input_shape=shape, **own)
            content["profile"][name] = layers.to_dict()
            _show_layers(name, layers)
    return content


def _show_layers(name: str, layers: Any) -> None:
    from lomt.terminal import show_table

    typer.echo(f"\n{name}: {layers.total_ms:.3f} ms in {len(layers.layers)} layers")
    numbers = ("count", "ms", "share")
    kinds = [
        (kind, str(count), f"{ms:.3f}", f"{share:.1%}")
        for kind, (count, ms, share) in layers.by_kind().items()
    ]
    show_table(("operator", *numbers), kinds, numbers=numbers)
    slowest = layers.layers[:_MOST_LAYERS]
    typer.echo("")
    show_table(
        ("slowest layers", "operator", "ms", "share"),
        [(layer.name, layer.kind, f"{layer.ms:.3f}", f"{layer.share:.1%}") for layer in slowest],
        numbers=("ms", "share"),
    )


def _arms(
    subjects: Sequence[str], provider: str, size: tuple[int, int] | None, batch: int, folder: Path
) -> dict[str, Path | str]:
    from lomt.deploy.providers import reads_onnx

    if len(subjects) == 1 and Path(subjects[0], "recipe.yaml").is_file():
        return _arms_of_run(Path(subjects[0]), provider)
    names = _names(subjects)
    if reads_onnx(provider):
        return {
            name: Path(subject)
            if subject.endswith(".onnx")
            else _export(subject, size, batch, folder / f"{i}.onnx")
            for i, (name, subject) in enumerate(zip(names, subjects, strict=True))
        }
    files = [subject for subject in subjects if subject.endswith(".onnx")]
    if files:
        raise LomtError(
            f"Expected factories or saved models' directories for provider {provider}, as PyTorch does not read ONNX "
            f"files, but got {files[0]}. Use provider cpu, cuda, tensorrt or openvino for files."
        )
    make_local_modules_known()
    return dict(zip(names, subjects, strict=True))


def _arms_of_run(run: Path, provider: str) -> dict[str, Path | str]:
    from lomt.deploy.providers import reads_onnx
    from lomt.pipeline.bench_stage import bench_arms
    from lomt.recipe import load_recipe

    if not reads_onnx(provider):
        raise LomtError(
            f"Expected a saved model's directory, such as {run / 'dense'}, for provider {provider}, but got a run "
            "directory."
        )
    return dict(bench_arms(load_recipe(str(run / "recipe.yaml"), check_names=False), run))


def _names(subjects: Sequence[str]) -> list[str]:
    """Return a short name for each: the last part where it tells them apart, else all of it, else a number too."""
    short = [Path(subject).stem if subject.endswith(".onnx") else subject for subject in subjects]
    names: list[str] = []
    for subject, name in zip(subjects, short, strict=True):
        chosen = name if short.count(name) == 1 else subject
        number = 1
        while chosen in names:
            number += 1
            chosen = f"{subject} ({number})"
        names.append(chosen)
    return names


def _export(subject: str, size: tuple[int, int] | None, batch: int, path: Path) -> Path:
    """Write the ONNX file of a factory's or a saved model."""
    if size is None:
        raise LomtError(f"Expected `--input-size HxW` for {subject}, which does not say what it takes.")
    import torch

    from lomt.deploy.timing_export import export_for_timing
    from lomt.pruning.source import open_model

    make_local_modules_known()
    return export_for_timing(open_model(subject), torch.zeros(batch, _CHANNELS, *size), path)


def _batches(text: str | None) -> list[int]:
    parts = (text or "1").split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise LomtError(f"Expected `--batch` to be positive numbers such as 1 or 1,8, but got {text}.")
    return [int(part) for part in parts]
