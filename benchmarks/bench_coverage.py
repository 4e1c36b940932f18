"""How many of timm's model families `lomt` prunes correctly, beside Torch-Pruning out of the box.

Run:      python benchmarks/bench_coverage.py --jobs 2
          python benchmarks/bench_coverage.py --exactness --jobs 2
Expected: of the 98 families `lomt` passes at least 92 with half of the channels, none broken and none with
          a foreign traceback; channels set to zero are removed with a change of at most 1e-9 in float64;
          exit status 1 if a target is missed.

Every family and tool has a process of its own, with one thread and a limit in processor seconds, so that
neither a crash nor what a tool keeps between two models reaches the next, and other work on the machine makes
nobody fail. A family whose network does not build or run before
pruning counts for neither tool. Results are stored as they come in: `--resume` keeps what is there and runs
what is missing, with `--families` these once more.
"""

import argparse
import json
import math
import os
import resource
import signal
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch
from coverage_checks import EXACT_TOLERANCE, KEPT_CHANNELS, ONNX_TOLERANCE, ZEROED_CHANNELS, Row, measure
from families import FAMILIES, TRANSFORMERS

RESULT = Path(__file__).parent / "results" / "coverage.json"
COLUMNS = ("lomt", "torch_pruning")
LEAST_FAMILIES = 92
MOST_PARAMS_OF_TRANSFORMERS = 0.75
_PATIENCE = 5


def run_apart(family: str, column: str, timeout: float) -> dict[str, Any]:
    """Measure in a process of its own, which is ended with its children at the limit.

    Args:
        family: One of `FAMILIES`.
        column: A tool, or `exactness`.
        timeout: Most processor seconds; of the clock's it may be `_PATIENCE` times as many.
    """
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "row.json"
        threads = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        process = subprocess.Popen(
            [sys.executable, __file__, "--worker", family, column, str(answer), str(timeout)],
            env={**os.environ, **threads},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            _, said = process.communicate(timeout=_PATIENCE * timeout)
        except subprocess.TimeoutExpired:
            return Row("timeout", f"more than {_PATIENCE * timeout:.0f} s by the clock").to_dict()
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if answer.exists():
            row: dict[str, Any] = json.loads(answer.read_text())
            return row
        if process.returncode == -signal.SIGXCPU:
            return Row("timeout", f"more than {timeout:.0f} processor seconds").to_dict()
        last = (said.strip().splitlines() or [""])[-1]
        return Row("crash", f"the process ended with status {process.returncode}: {last[:200]}").to_dict()


def main() -> int:
    """Measure, print and store; tell by the exit status whether the targets are met."""
    options = _options()
    if options.worker:
        return _work(*options.worker)
    columns = ("exactness",) if options.exactness else tuple(options.columns.split(","))
    rows: dict[str, dict[str, Any]] = {}
    if options.output.exists() and (options.resume or options.exactness):
        rows = json.loads(options.output.read_text())["families"]
    again = options.families.split(",") if options.families else []
    pending = [
        (family, column)
        for family in again or FAMILIES
        for column in columns
        if again or not options.resume or column not in rows.get(family, {})
    ]
    with ThreadPoolExecutor(options.jobs) as pool:
        futures = {pool.submit(run_apart, *pair, options.timeout): pair for pair in pending}
        for future in as_completed(futures):
            family, column = futures[future]
            rows.setdefault(family, {"member": _member(family)})[column] = row = future.result()
            print(_line(family, column, row), flush=True)
            _store(rows, options)
    missed = [text for column in columns for text in _summarise(column, rows)]
    for text in missed:
        print(f"missed: {text}")
    return 1 if missed else 0


def _work(family: str, column: str, answer: str, timeout: str) -> int:
    most = math.ceil(float(timeout))
    resource.setrlimit(resource.RLIMIT_CPU, (most, most + 5))
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    Path(answer).write_text(json.dumps(measure(family, column).to_dict()))
    return 0


def _member(family: str) -> dict[str, Any]:
    member = FAMILIES[family]
    return {"name": member.name, "size": member.size, "options": dict(member.options)}


def _line(family: str, column: str, row: dict[str, Any]) -> str:
    ratio = row.get("params_ratio")
    share = "" if ratio is None else f"{ratio:.1%}"
    seconds = row.get("seconds", float("nan"))
    return f"{family:26} {column:14} {row['status']:10} {share:>7} {seconds:6.1f} s  {row['reason'][:100]}"


def _store(rows: dict[str, dict[str, Any]], options: argparse.Namespace) -> None:
    import torch_pruning

    from lomt.deploy import describe_environment

    settings = {
        "channels": KEPT_CHANNELS,
        "onnx_tolerance": ONNX_TOLERANCE,
        "exact_tolerance": EXACT_TOLERANCE,
        "zeroed_channels": ZEROED_CHANNELS,
        "timeout_processor_s": options.timeout,
        "jobs": options.jobs,
        "threads": 1,
        "torch_pruning": torch_pruning.__version__,
    }
    order = {family: rows[family] for family in FAMILIES if family in rows}
    result = {
        "environment": describe_environment(),
        "settings": settings,
        "summary": {
            column: Counter(row[column]["status"] for row in order.values() if column in row)
            for column in (*COLUMNS, "exactness")
        },
        "families": order,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    temporary = options.output.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=1) + "\n")
    temporary.replace(options.output)


_Rows = dict[str, dict[str, Any]]


def _summarise(column: str, rows: _Rows) -> list[str]:
    """Print how many families have which status; returns the targets that are missed."""
    known = {family: row[column] for family, row in rows.items() if column in row}
    counts = Counter(row["status"] for row in known.values())
    print(f"{column}: " + ", ".join(f"{count} {status}" for status, count in counts.most_common()))
    if column == "lomt":
        return _missed_by_lomt(known)
    return _missed_by_exactness(known) if column == "exactness" else []


def _missed_by_lomt(known: _Rows) -> list[str]:
    missed = []
    passed = sum(row["status"] == "ok" for row in known.values())
    least = LEAST_FAMILIES if len(known) == len(FAMILIES) else len(known)
    if passed < least:
        missed.append(f"{passed} of {len(known)} families pass, fewer than {least}")
    large = [
        f"{family} {row['params_ratio']:.0%}"
        for family, row in known.items()
        if family in TRANSFORMERS and row.get("params_ratio", 0) > MOST_PARAMS_OF_TRANSFORMERS
    ]
    if large:
        missed.append(
            f"more than {MOST_PARAMS_OF_TRANSFORMERS:.0%} of the parameters left: " + ", ".join(large)
        )
    foreign = [
        family
        for family, row in known.items()
        if row["status"] in ("broken", "timeout") or (row["status"] == "crash" and not row["own_error"])
    ]
    if foreign:
        missed.append("broken, too slow or with a foreign traceback: " + ", ".join(foreign))
    return missed


def _missed_by_exactness(known: _Rows) -> list[str]:
    failed = [
        family for family, row in known.items() if row["status"] not in ("ok", "lossy only", "no model")
    ]
    return ["not exact: " + ", ".join(failed)] if failed else []


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--families", default="", help="some of timm's families, separated by commas")
    parser.add_argument("--columns", default=",".join(COLUMNS), help="tools, separated by commas")
    parser.add_argument("--exactness", action="store_true", help="measure exact removal instead")
    parser.add_argument("--jobs", type=int, default=1, help="processes at the same time")
    parser.add_argument(
        "--timeout", type=float, default=120, help="processor seconds for one family and tool"
    )
    parser.add_argument("--resume", action="store_true", help="keep the results that are stored")
    parser.add_argument("--output", type=Path, default=RESULT, help="where the result file is")
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
