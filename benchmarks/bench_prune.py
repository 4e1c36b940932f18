"""What pruning costs, what it gains in real time, and whether dead branches really go.

Run:      python benchmarks/bench_prune.py --part time --part speed --part dead
Expected: exit status 1 if one of these targets is missed.
          time   at most 1.5 times Torch-Pruning's own graph and step, at most twice the model's size of memory;
          speed  onnxruntime's speed-up on one thread at least 0.75 of the reduction of multiply-accumulates;
          dead   all dead branches gone, outputs equal to 1e-9 in float64, and speed-up as above.

Every part stores under its own key and leaves the others' results; each row names the machine it ran on. What is timed
against each other takes turns within one process, in pairs that are neighbours in time. Takes about five minutes
on two idle cores.
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from prune_dead import measure_dead
from prune_speed import MODELS as SPEED_MODELS
from prune_speed import measure_speed
from prune_time import measure_time

RESULT = Path(__file__).parent / "results" / "prune.json"


def main() -> int:
    """Measure the parts asked for, print and store; tell by the exit status whether the targets are met."""
    options = _options()
    torch.set_num_threads(1)
    parts: Mapping[str, Callable[[], dict[str, Any]]] = {
        "time": lambda: measure_time(options.pairs),
        "speed": lambda: measure_speed(options.seconds, options.models),
        "dead": lambda: measure_dead(options.seconds),
    }
    missed = []
    for part in options.part or parts:
        before = os.getloadavg()
        rows = parts[part]()
        environment = _environment(before)
        _store(
            options.output, part, {name: {"environment": environment, **row} for name, row in rows.items()}
        )
        for name, row in rows.items():
            print(f"{part} {name}")
            for key, value in row.items():
                print(f"  {key}: {json.dumps(value)}")
            missed += [f"{part} {name}: {text}" for text in row["missed"]]
    for text in missed:
        print(f"missed: {text}")
    return 1 if missed else 0


def _store(path: Path, part: str, rows: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = json.loads(path.read_text()) if path.exists() else {}
    stored[part] = {**stored.get(part, {}), **rows}
    path.write_text(json.dumps(stored, indent=2) + "\n")


def _environment(load_before: tuple[float, float, float]) -> dict[str, Any]:
    packages = ("torch", "timm", "torch-pruning", "onnx", "onnxruntime")
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": 1,
        "load_average": [load_before, os.getloadavg()],
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in packages},
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", action="append", choices=("time", "speed", "dead"), help="all by default")
    parser.add_argument("--models", nargs="+", choices=SPEED_MODELS, help="only these, in the part `speed`")
    parser.add_argument("--pairs", type=int, default=7, help="timed pairs for each network, at least 5")
    parser.add_argument("--seconds", type=float, default=3.0, help="recorded for each network's latency")
    parser.add_argument("--output", type=Path, default=RESULT, help="where the result file goes")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
