"""The NYU-v2 recipe from start to end: quality, cost, latency, time and memory.

    LOMT_DATA=... LOMT_WEIGHTS=... python benchmarks/bench_nyuv2.py --out runs/nyuv2_lite0_lomt

Runs `lomt run` in a process of its own and writes `benchmarks/results/nyuv2_lite0_lomt.json`. Stages that the run
directory already holds are not run again; training time is therefore added up from the epochs' own records.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from lomt.deploy import describe_environment
from lomt.pipeline import run
from lomt.recipe import load_recipe

_RECIPE = "nyuv2_lite0_lomt"
_RESULT = Path(__file__).parent / "results" / f"{_RECIPE}.json"


def main() -> None:
    """Run, gather and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--out", type=Path, default=Path("runs") / _RECIPE)
    parser.add_argument("--output", type=Path, default=_RESULT)
    arguments = parser.parse_args()
    began = time.monotonic()
    command = [sys.executable, "-m", "lomt.cli", "run", _RECIPE, "--out", str(arguments.out)]
    subprocess.run(command, check=True)
    seconds = time.monotonic() - began
    # Everything is up to date now: this only gathers.
    summary = run(load_recipe(_RECIPE), arguments.out)
    result: dict[str, Any] = {
        "environment": describe_environment(),
        "recipe": _RECIPE,
        **summary.to_dict(),
        "training_seconds": _training_seconds(arguments.out),
        "last_call": {
            "seconds": seconds,
            "peak_memory_bytes": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024,
        },
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    print(summary)


def _training_seconds(out: Path) -> dict[str, float]:
    """Return the seconds of all epochs of each stage."""
    seconds: dict[str, float] = {}
    for history in sorted(out.rglob("*history.jsonl")):
        stage = history.relative_to(out).parts[0]
        records = [json.loads(line) for line in history.read_text().splitlines()]
        seconds[stage] = seconds.get(stage, 0.0) + sum(record["seconds"] for record in records)
    return seconds


if __name__ == "__main__":
    main()
