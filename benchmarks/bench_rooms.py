"""How many `rooms` samples a second are rendered, by one process and by two at once.

    python benchmarks/bench_rooms.py

writes `benchmarks/results/rooms.json`. Every process renders different rooms of the default size with all
targets. Beside the clock's rate stands the processor's: the two part where other work shares the machine.
"""

import argparse
import json
import os
import platform
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime, timezone
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import psutil

import lomt
from lomt.data.rooms import RoomsDataset

_RESULT = Path(__file__).parent / "results" / "rooms.json"
_SIZE = (96, 128)
_WARM_UP = 20


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--images", type=int, default=300, help="images per process and repeat")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--output", type=Path, default=_RESULT)
    arguments = parser.parse_args()
    os.environ.update({name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")})
    result: dict[str, Any] = {
        "what": "rooms: image, segmentation, depth, normals, edges, scene",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "environment": _environment(),
        "size": _SIZE,
        "threads_per_process": 1,
        "images_per_process_and_repeat": arguments.images,
        "repeats": arguments.repeats,
        "processes": {str(count): _measure(count, arguments.images, arguments.repeats) for count in (1, 2)},
        "load_average_after": os.getloadavg(),
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    for count, rates in result["processes"].items():
        wall, processor = rates["images_per_s"], rates["images_per_processor_s"]
        print(f"{count} process(es): {wall['median']:.0f} images/s (best {wall['best']:.0f}),")
        print(f"    {processor['median']:.0f} per processor second (best {processor['best']:.0f})")


def _measure(processes: int, images: int, repeats: int) -> dict[str, dict[str, float]]:
    """Rates over the repeats; the clock runs until the slowest process is done."""
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        list(pool.map(_render, range(processes), [_WARM_UP] * processes))
        walls, cpus = [], []
        for repeat in range(repeats):
            seeds = range(repeat * processes, (repeat + 1) * processes)
            began = time.perf_counter()
            used = list(pool.map(_render, seeds, [images] * processes))
            walls.append(processes * images / (time.perf_counter() - began))
            cpus.append(processes * images / sum(used))
    return {"images_per_s": _summary(walls), "images_per_processor_s": _summary(cpus)}


def _render(seed: int, images: int) -> float:
    """Render and return the processor seconds it took."""
    dataset = RoomsDataset(images, size=_SIZE, seed=seed)
    began = time.process_time()
    for index in range(images):
        dataset.sample(index)
    return time.process_time() - began


def _summary(rates: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(rates), 1),
        "best": round(max(rates), 1),
        "worst": round(min(rates), 1),
    }


def _environment() -> dict[str, Any]:
    return {
        "processor": _processor(),
        "physical_cores": psutil.cpu_count(logical=False),
        "logical_cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_average_before": os.getloadavg(),
        "numpy": np.__version__,
        "lomt": lomt.__version__,
    }


def _processor() -> str:
    """The processor's model, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    main()
