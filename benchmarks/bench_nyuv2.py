"""The NYU-v2 recipe from start to end: quality, cost, latency, time and memory.

    LOMT_DATA=... LOMT_WEIGHTS=... python benchmarks/bench_nyuv2.py --out runs/nyuv2_lite0_lomt

For all four arms, single tasks' files and int8, add `--output benchmarks/results/nyuv2_lite0_pruned.json`,
`--set 'quantize={}'` and `--set` with
`prune={macs: 0.5, importance: task_union, distill: {weight: 0.5}, train: {epochs: 4, optimizer: {lr: 1.0e-3}}}`.

Runs `lomt run` in a process of its own and writes `benchmarks/results/nyuv2_lite0_lomt.json`. Stages that the run
directory already holds are not run again. What they took is read from their own records: of each stage the seconds
of its last attempt, evaluation included, and the peak memory of its process; the seconds of all epochs, those before
an interruption too.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from lomt.deploy import describe_environment
from lomt.pipeline import RunSummary, run
from lomt.recipe import load_recipe

_RECIPE = "nyuv2_lite0_lomt"
_RESULT = Path(__file__).parent / "results" / f"{_RECIPE}.json"


def main() -> None:
    """Run, gather and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--out", type=Path, default=Path("runs") / _RECIPE)
    parser.add_argument("--output", type=Path, default=_RESULT)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as of `lomt run`")
    arguments = parser.parse_args()
    changes = [option for change in arguments.set for option in ("--set", change)]
    command = [sys.executable, "-m", "lomt.cli", "run", _RECIPE, "--out", str(arguments.out), *changes]
    subprocess.run(command, check=True)
    # Everything is up to date now: this only gathers.
    summary = run(load_recipe(_RECIPE, tuple(arguments.set)), arguments.out)
    write_result(summary, arguments.out, arguments.set, arguments.output)
    print(summary)


def write_result(summary: RunSummary, out: Path, changes: list[str], output: Path) -> None:
    """Write what a finished run came to and took.

    Args:
        summary: Of the run.
        out: The run directory.
        changes: Of the recipe's keys.
        output: The result file.
    """
    result: dict[str, Any] = {
        "environment": describe_environment(),
        "recipe": _RECIPE,
        "changes": changes,
        **summary.to_dict(),
        "training_seconds": _training_seconds(out),
        "stages": _stages(out),
        "latency": _latency(out),
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result, indent=2) + "\n")


def _training_seconds(out: Path) -> dict[str, float]:
    """Return the seconds of all epochs of each stage."""
    seconds: dict[str, float] = {}
    for history in sorted(out.rglob("*history.jsonl")):
        stage = history.relative_to(out).parts[0]
        records = [json.loads(line) for line in history.read_text().splitlines()]
        seconds[stage] = seconds.get(stage, 0.0) + sum(record["seconds"] for record in records)
    return seconds


def _latency(out: Path) -> dict[str, Any]:
    """Return every file's median milliseconds and share of the GEMM, and the warnings, by number of threads."""
    reports = json.loads((out / "bench" / "latency.json").read_text())["threads"]
    return {
        threads: {
            "arms": {
                name: {key: arm[key] for key in ("median_ms", "efficiency", "file_bytes")}
                for name, arm in report["arms"].items()
            },
            "noise_floor": report["noise_floor"],
            "warnings": report["warnings"],
        }
        for threads, report in reports.items()
    }


def _stages(out: Path) -> dict[str, dict[str, float]]:
    """Return what each stage noted of its last attempt, in the order of their end."""
    stamps = sorted(out.glob("*/stage.json"), key=lambda path: path.stat().st_mtime_ns)
    contents = {path.parent.name: json.loads(path.read_text()) for path in stamps}
    return {
        stage: {name: content[name] for name in ("seconds_of_last_attempt", "peak_memory_bytes")}
        for stage, content in contents.items()
        if "seconds_of_last_attempt" in content
    }


if __name__ == "__main__":
    main()
