"""The verbs on datasets, `lomt data check`, `preview` and `cache`: they parse and print."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from lomt.cli_options import VerboseOption, parse_size
from lomt.errors import DataError

__all__ = ["data_app"]

_DAMAGED = 1
_MOST_CLASSES = 45

PathArgument = Annotated[
    Path, typer.Argument(metavar="PATH", help="A dataset's folder, or the .mat file of NYU-Depth v2.")
]
TargetOption = Annotated[
    list[str] | None,
    typer.Option("--target", metavar="NAME", help="A target to read; the main ones if none is given."),
]
ThreadsOption = Annotated[int, typer.Option("--threads", metavar="N", min=1, help="Samples decoded at once.")]
SizeOption = Annotated[str, typer.Option("--size", metavar="HxW", help="Height and width in pixels.")]

data_app = typer.Typer(
    help="Look through a dataset, see it, decode it once: folders with a dataset.yaml, NYU-Depth v2, "
    "CelebAMask-HQ, Taskonomy, Cityscapes and MTFL as downloaded, and plain folders of images without labels.",
    epilog="Example: lomt data check data/nyuv2",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@data_app.command("check", epilog="Example: lomt data check data/CelebAMask-HQ --threads 4")
def check(
    path: PathArgument,
    targets: TargetOption = None,
    threads: ThreadsOption = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    verbose: VerboseOption = 0,
) -> None:
    """Identify the layout, decode every file, count every label; exit status 1 if a sample is damaged.

    A folder of images and nothing known beside them has layout `images` and no labels.

    Of a zip or tar archive, list what would be written outside the folder it is unpacked in.
    """
    from lomt.data import check_dataset, is_archive
    from lomt.terminal import configure_logging, terminal_progress

    configure_logging(verbose)
    if is_archive(path):
        _check_archive(path)
    if as_json:
        found = check_dataset(path, targets=targets or None, threads=threads)
        typer.echo(json.dumps(found.to_dict(), indent=2))
    else:
        with terminal_progress() as progress:
            found = check_dataset(path, targets=targets or None, threads=threads, progress=progress)
        _show(found.to_dict())
    if found.damaged:
        raise typer.Exit(_DAMAGED)


@data_app.command("preview", epilog="Example: lomt data preview data/nyuv2 --out nyuv2.png --count 6")
def preview(
    path: PathArgument,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="PNG to write.")] = Path("preview.png"),
    split: Annotated[
        str, typer.Option("--split", metavar="train|validation|test", help="Which samples.")
    ] = "train",
    count: Annotated[
        int, typer.Option("--count", metavar="N", min=1, help="Samples, evenly over the split.")
    ] = 6,
    size: SizeOption = "192x256",
    targets: TargetOption = None,
) -> None:
    """Draw samples with every target into one picture, to be looked at."""
    from lomt.data import contact_sheet, identify, open_dataset, save_sheet
    from lomt.data.opening import SPLITS
    from lomt.errors import UnknownNameError

    if split not in SPLITS:
        raise UnknownNameError("split", split, SPLITS)
    dataset = open_dataset(identify(path), path, split, size=parse_size(size), targets=targets or None)
    count = min(count, len(dataset))
    sheet = contact_sheet(dataset, [i * len(dataset) // count for i in range(count)])
    save_sheet(sheet, out)
    typer.echo(f"{count} of {len(dataset)} samples of {dataset.name} ({split}) drawn in {out}.")


@data_app.command("cache", epilog="Example: lomt data cache data/nyuv2 --size 96x128 --out cache/nyuv2")
def cache(
    path: PathArgument,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder to write, the `data.cache_dir` of recipes.")
    ],
    size: SizeOption,
    targets: TargetOption = None,
    threads: ThreadsOption = 2,
    verbose: VerboseOption = 0,
) -> None:
    """Decode and resize every sample once, into memory-mapped files with checksums.

    A split that is there already and fits the dataset is left as it is.
    """
    from lomt.data import identify, open_dataset, open_map, splits_of, write_map
    from lomt.terminal import configure_logging, terminal_progress

    configure_logging(verbose)
    layout, height_width = identify(path), parse_size(size)
    with terminal_progress() as progress:
        for split in splits_of(layout, path):
            dataset = open_dataset(layout, path, split, size=height_width, targets=targets or None)
            folder = out / split
            if folder.exists():
                open_map(folder, dataset)
                progress.message(f"{folder} is up to date.")
                continue
            write_map(dataset, folder, threads=threads, progress=progress)
    typer.echo(f"Set data.cache_dir to {out} to train from it.")


def _check_archive(path: Path) -> None:
    """End with what an archive would do."""
    from lomt.data import find_escapes

    if escapes := find_escapes(path):
        listed = "\n".join(f"  {text}" for text in escapes[:10])
        raise DataError(
            f"Expected {path} to stay inside the folder it is unpacked in, but of its members {len(escapes)} "
            f"do not:\n{listed}\nDo not unpack it."
        )
    raise DataError(
        f"Expected a dataset's folder, but got the archive {path}. All its members stay inside the folder that it "
        "is unpacked in: unpack it and give that folder."
    )


def _show(found: dict[str, Any]) -> None:
    from lomt.terminal import show_table

    typer.echo(f"{found['name']}: layout {found['layout']} at {found['path']}")
    for split, content in found["splits"].items():
        sizes = ", ".join(f"{count} of {size}" for size, count in list(content["sizes"].items())[:5])
        damaged = len(content["damaged"])
        typer.echo(f"\n{split}: {content['samples']} samples, {damaged} damaged; images {sizes or 'none'}")
        rows = [
            row
            for name, own in content["targets"].items()
            for row in _rows(name, found["targets"][name], own)
        ]
        if rows:
            show_table(("target", "kind", "label", "figures", "no label"), rows)
        for name, notes in content["notes"].items():
            for note in notes:
                typer.echo(f"note: {name}: {note}")
        for message in content["damaged"]:
            typer.echo(f"damaged: {message}")


def _rows(name: str, kind: str, own: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return a target's lines: classes by their share, channels by their range."""
    cells: list[tuple[str, str]] = []
    if "classes" in own:
        classes = sorted(own["classes"].items(), key=lambda item: -item[1]["share"])
        for label, figures in classes[:_MOST_CLASSES]:
            samples = f", in {figures['samples']} samples" if "samples" in figures else ""
            cells.append((label, f"{figures['share']:.2%}{samples}"))
        if len(classes) > _MOST_CLASSES:
            cells.append((f"{len(classes) - _MOST_CLASSES} more", ""))
    else:
        for number, figures in enumerate(own["channels"]):
            text = "" if figures is None else "{least:.4g} to {most:.4g}, mean {mean:.4g}".format(**figures)
            cells.append((str(number) if len(own["channels"]) > 1 else "", text))
    unlabelled = f"{own['unlabelled']:.2%}"
    return [
        (name, kind, label, text, unlabelled) if index == 0 else ("", "", label, text, "")
        for index, (label, text) in enumerate(cells)
    ]
