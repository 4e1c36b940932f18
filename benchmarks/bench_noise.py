"""What `lomt bench` can tell apart on this machine, and whether it agrees with a plain timed loop.

    python benchmarks/bench_noise.py                  # three parts, about half an hour; leave the machine alone
    python benchmarks/bench_noise.py --quick --repeats 2 2 --output /tmp/noise.json      # to try it out

Three questions, each about a network of 3x3 convolutions that takes some milliseconds on one thread:

- `same`: two copies of one file. Does the 95 % interval cover 1? Asked in at least 19 of 20 measurements.
- `slowed`: the file and a twin with one extra small layer, which adds 5 % of the multiply-accumulates. Is the twin
  told to be slower? Asked in at least 9 of 10 measurements of full length.
- `plain`: a network and one with a layer less. Does the speed-up's interval hold the ratio of the medians of plain
  timed loops, taken in turns before and after? The plain loop is `tests/reference/plain_timing.py`.

Each measurement is stored as it finishes, and a second call goes on where the first ended. Exit status 1 says that a
target is missed.
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from stored_results import say, store

from lomt.deploy import count_cost, describe_environment, measure_latency
from lomt.deploy.latency_report import LatencyReport

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.reference.plain_timing import time_plainly

TARGETS = {"same": 19 / 20, "slowed": 9 / 10}
WIDTH, LAYERS, SIZE = 32, 3, (96, 128)
_PLAIN_LOOPS = 20
_RESULT = Path(__file__).parent / "results" / "bench_noise.json"


def main() -> None:
    """Measure what is missing, store each measurement, print the answers."""
    options = _options()
    result = _begin(options)
    with TemporaryDirectory() as folder:
        files = write_networks(Path(folder))
        result["extra_macs"] = count_cost(files["slowed"]).macs / count_cost(files["base"]).macs - 1
        wanted = {"same": options.repeats[0], "slowed": options.repeats[1], "plain": 1}
        for part, count in wanted.items():
            for number in range(len(result[part]), count):
                result[part].append(measure(part, files, number, quick=options.quick))
                store(options.output, result)
                say(f"{part} {number + 1} of {count}: {result[part][-1]}")
    missed = answers(result)
    store(options.output, result)
    print(json.dumps(result["answers"], indent=2))
    sys.exit("\n".join(missed) or None)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--repeats", nargs=2, type=int, default=(20, 10), metavar=("SAME", "SLOWED"))
    parser.add_argument("--quick", action="store_true", help="short measurements, to try this out")
    parser.add_argument("--output", type=Path, default=_RESULT)
    return parser.parse_args()


def _begin(options: argparse.Namespace) -> dict[str, Any]:
    if options.output.exists():
        stored: dict[str, Any] = json.loads(options.output.read_text())
        if stored["quick"] != options.quick:
            raise SystemExit(
                f"Expected {options.output} to be of the same length of measurement. Give another --output."
            )
        return stored
    empty: dict[str, Any] = {"same": [], "slowed": [], "plain": []}
    return {"environment": describe_environment(), "quick": options.quick, **empty}


def write_networks(folder: Path) -> dict[str, Path]:
    """Write the base network, a copy, a twin with one extra small layer, and one of a layer less."""
    return {
        "base": write_chain(folder / "base.onnx", LAYERS),
        "copy": write_chain(folder / "copy.onnx", LAYERS),
        "slowed": write_chain(folder / "slowed.onnx", LAYERS, has_extra=True),
        "less": write_chain(folder / "less.onnx", LAYERS - 1),
    }


def write_chain(path: Path, layers: int, *, has_extra: bool = False) -> Path:
    """Write 3x3 convolutions of equal width with ReLU between them; the extra layer, the last but one, is 1x1."""
    generator = np.random.default_rng(0)
    kernels = [3] * layers
    if has_extra:
        kernels.insert(-1, 1)
    nodes, weights, value, channels = [], [], "images", 3
    for number, kernel in enumerate(kernels):
        is_last = number == len(kernels) - 1
        weight = generator.standard_normal((WIDTH, channels, kernel, kernel)) * np.sqrt(2 / channels) / kernel
        weights.append(numpy_helper.from_array(weight.astype(np.float32), f"weight{number}"))
        result = "depth" if is_last else f"conv{number}"
        pads = [kernel // 2] * 4
        nodes.append(helper.make_node("Conv", [value, f"weight{number}"], [result], pads=pads))
        if not is_last:
            nodes.append(helper.make_node("Relu", [result], [f"features{number}"]))
        value, channels = f"features{number}", WIDTH
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, *SIZE])],
        [helper.make_tensor_value_info("depth", TensorProto.FLOAT, ["batch", WIDTH, *SIZE])],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def measure(part: str, files: Mapping[str, Path], number: int, *, quick: bool) -> dict[str, Any]:
    """Make one measurement and return its answer with what is needed to judge it.

    Args:
        part: ``"same"``, ``"slowed"`` or ``"plain"``.
        files: From :func:`write_networks`.
        number: Of the measurement; its seed.
        quick: Whether it is a short one.
    """
    other = {"same": "copy", "slowed": "slowed", "plain": "less"}[part]
    arms = {"base": files["base"], other: files[other]}
    plain = [_plain(arms)] if part == "plain" else []
    report = measure_latency(arms, baseline="base", seed=number, quick=quick)
    plain += [_plain(arms)] if part == "plain" else []
    return _answer(part, report, other, plain)


def _plain(arms: Mapping[str, Path]) -> dict[str, float]:
    """Return the median of plain loops over each network, taken in turns."""
    times = [
        {name: time_plainly(path, (1, 3, *SIZE)) for name, path in arms.items()} for _ in range(_PLAIN_LOOPS)
    ]
    return {name: median(own[name] for own in times) for name in arms}


def _answer(part: str, report: LatencyReport, other: str, plain: list[dict[str, float]]) -> dict[str, Any]:
    found, noise = report.speed_ups[other], report.noise_floor
    answer: dict[str, Any] = {
        "ratio": found.ratio,
        "low": found.low,
        "high": found.high,
        "noise_floor": [noise.ratio, noise.low, noise.high],
        "load_average": os.getloadavg()[0],
        "other_load": max(own["other_load"] for own in report.environment["rounds"]),
    }
    if part == "same":
        # Both are one file against itself: the arm, and the second copy that every measurement makes.
        answer["is_right"] = found.low <= 1 <= found.high
        answer["noise_floor_covers_1"] = noise.low <= 1 <= noise.high
    elif part == "slowed":
        answer["is_right"] = found.is_distinguishable and found.ratio < 1
    else:
        ratio = median(own["base"] / own[other] for own in plain)
        answer |= {"plain_ratio": ratio, "is_right": found.low <= ratio <= found.high}
    return answer


def answers(result: dict[str, Any]) -> list[str]:
    """Put the shares of right answers into the result, and return what is missed, a sentence each."""
    shares = {
        part: sum(own["is_right"] for own in result[part]) / len(result[part])
        for part in ("same", "slowed", "plain")
        if result[part]
    }
    result["answers"] = {part: {"right": share, "of": len(result[part])} for part, share in shares.items()}
    bounds = {**TARGETS, "plain": 1.0}
    return [
        f"{part}: right in {share:.0%}, fewer than {bounds[part]:.0%}"
        for part, share in shares.items()
        if share < bounds[part]
    ]


if __name__ == "__main__":
    main()
