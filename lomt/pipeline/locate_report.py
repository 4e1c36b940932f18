"""What the locate methods found, whether they agree, and what each cost: ``locate/report.txt`` and ``.json``."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from lomt.atomic_file import write_text_atomically
from lomt.branching import layers_apart
from lomt.pipeline.context import Context
from lomt.pipeline.run_directory import StageFolder

__all__ = ["format_report", "make_report", "write_report"]

METHODS = ("single_task", "joint")
_MEANING = {
    "single_task": "share of channel groups left by group lasso, each task trained alone",
    "joint": "share of the lambda path for which the task went on reading the layer",
}


def write_report(context: Context, folder: StageFolder) -> None:
    """Write what the finished methods found, as JSON and as text."""
    report = make_report(context)
    folder.write_json("report.json", report)
    write_text_atomically(folder.path / "report.txt", format_report(report))


def make_report(context: Context) -> dict[str, Any]:
    """Gather both methods' evidence, where they have run with the recipe's data and model, and their cost."""
    path = context.directory.path
    methods: dict[str, Any] = {}
    for method in METHODS:
        found = context.directory.find_json(f"locate/{method}", "profiles.json")
        if found is not None:
            methods[method] = {**found, "cost": _cost(path / "locate" / method)}
    report: dict[str, Any] = {
        "layers": [layer.name for layer in context.parts.layers],
        "methods": methods,
        "dense_cost": _cost(path / "dense"),
    }
    if len(methods) == len(METHODS):
        first, second = (methods[method]["branch_points"] for method in METHODS)
        report["layers_apart"] = _apart(first, second, methods, report["layers"])
    return report


def format_report(report: Mapping[str, Any]) -> str:
    """Return the report as text: a table a method, their agreement, what they cost."""
    lines: list[str] = []
    for method, found in report["methods"].items():
        rule = found["reading"]["rule"]
        lines += [f"{method}, rule {rule}: {_MEANING[method]}; * is the branch point", ""]
        lines += [*_table(found["profiles"], found["branch_points"]), ""]
    if "layers_apart" in report:
        apart = report["layers_apart"]
        shown = ", ".join(f"{task} {count:+d}" for task, count in apart.items())
        close = sum(abs(count) <= 1 for count in apart.values())
        lines += [
            f"Agreement: {close} of {len(apart)} tasks within one layer (joint against single_task: {shown}).",
        ]
    for method, found in report["methods"].items():
        lines.append(f"Cost of {method}: {_said(found['cost'], report['dense_cost'])}")
    return "\n".join(lines) + "\n"


def _apart(
    first: Mapping[str, str], second: Mapping[str, str], methods: Mapping[str, Any], layers: Sequence[str]
) -> dict[str, int]:
    """Count in the layers that both methods chose among."""
    of = [{layer["layer"] for p in m["profiles"] for layer in p["layers"]} for m in methods.values()]
    points = {*first.values(), *second.values()}
    return layers_apart(first, second, [name for name in layers if name in of[0] & of[1] or name in points])


def _cost(folder: Path) -> dict[str, float]:
    """Return the epochs' seconds and steps of all runs in a folder, also of those before an interruption."""
    runs = [
        [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        for file in sorted(folder.rglob("*history.jsonl"))
    ]
    runs = [records for records in runs if records]
    return {
        "runs": len(runs),
        "steps": sum(records[-1]["step"] for records in runs),
        "seconds": round(sum(record["seconds"] for records in runs for record in records), 3),
    }


def _said(cost: Mapping[str, float], dense: Mapping[str, float]) -> str:
    text = f"{cost['runs']} run(s), {cost['steps']} steps, {cost['seconds']:.0f} s"
    if not dense["seconds"] or not dense["steps"]:
        return f"{text}."
    return (
        f"{text}; {cost['steps'] / dense['steps']:.2f} of the dense training's steps, "
        f"{cost['seconds'] / dense['seconds']:.2f} of its seconds."
    )


def _table(profiles: Sequence[Mapping[str, Any]], points: Mapping[str, str]) -> list[str]:
    tasks = [profile["task"] for profile in profiles]
    names = [layer["layer"] for layer in profiles[0]["layers"]]
    wide = max(len(name) for name in names)
    lines = ["  ".join(["layer".ljust(wide), *(f"{task:>12}" for task in tasks)])]
    for index, name in enumerate(names):
        cells = []
        for profile in profiles:
            density = fmean(profile["layers"][index]["densities"])
            cells.append(f"{density:.1%}{'*' if points[profile['task']] == name else ' '}".rjust(12))
        lines.append("  ".join([name.ljust(wide), *cells]).rstrip())
    return lines
