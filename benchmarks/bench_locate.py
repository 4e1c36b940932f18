"""Planted problems: do the locate methods find the layer at which a task's information was put?

    python benchmarks/bench_locate.py --method joint --problem features --seeds 10
    python benchmarks/bench_locate.py --method single_task --problem reach --seeds 10

A seed is a random residual network, random images and three tasks, each of which can be solved from its own block on;
it counts as found when every task's branch point is within one block. The problems are described in
`planted_features.py` and `planted_reach.py`. Takes up to a minute of processor time a seed. Writes
`benchmarks/results/locate_planted_<method>_<problem>.json` after every seed.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

# Run as a script, its own folder is on the path; imported, the folder above.
try:
    from planted_layers import PROBLEMS, blocks_apart, planted_context, planted_recipe
except ModuleNotFoundError:
    from benchmarks.planted_layers import PROBLEMS, blocks_apart, planted_context, planted_recipe

from lomt.deploy import describe_environment
from lomt.pipeline.locate_stage import run_locate

_RESULTS = Path(__file__).parent / "results"
SETTINGS: dict[str, dict[str, Any]] = {
    "joint": {"joint": {"lr": 5.0e-3}},
    "single_task": {
        "lambdas": {"start": 1.0e-2, "stop": 0.6, "count": 6},
        "rule": "last_active_bypassable",
        "stop": {"sparsity": 1.0},
        "train": {"epochs": 1, "optimizer": {"lr": 1.0e-2}},
    },
}


def main() -> None:
    """Run the seeds one after the other, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--method", choices=sorted(SETTINGS), default="joint")
    parser.add_argument("--problem", choices=sorted(PROBLEMS), default="features")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    output = arguments.output or _RESULTS / f"locate_planted_{arguments.method}_{arguments.problem}.json"
    torch.set_num_threads(1)
    found: list[dict[str, Any]] = []
    for seed in range(arguments.seeds):
        found.append(locate_planted(arguments.method, arguments.problem, seed, arguments.images))
        print(
            json.dumps({key: found[-1][key] for key in ("seed", "blocks_apart", "cpu_seconds")}), flush=True
        )
        result = {
            "environment": describe_environment(),
            "method": arguments.method,
            "problem": arguments.problem,
            "settings": SETTINGS[arguments.method],
            "images": arguments.images,
            "found_within_one_block": sum(is_found(own) for own in found),
            "seeds": len(found),
            "results": found,
        }
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(result, indent=2) + "\n")
    print(
        f"{arguments.method}, {arguments.problem}: {sum(map(is_found, found))} of {len(found)} seeds within one block"
    )


def locate_planted(method: str, problem: str, seed: int, images: int) -> dict[str, Any]:
    """Return what a method says of the planted problem of a seed, and how far that is from the truth."""
    began = time.process_time()
    recipe = planted_recipe(method, problem, seed=seed, **SETTINGS[method])
    with tempfile.TemporaryDirectory() as folder:
        context = planted_context(recipe, Path(folder) / "run", problem, seed, images)
        run_locate(context)
        stored = json.loads((Path(folder) / "run" / "locate" / "profiles.json").read_text())
    truth = dict(context.parts.planted.layers)
    return {
        "seed": seed,
        "planted": truth,
        "found": stored["branch_points"],
        "blocks_apart": blocks_apart(context.parts, stored["branch_points"], truth),
        "profiles": {
            own["task"]: {layer["layer"]: layer["densities"] for layer in own["layers"]}
            for own in stored["profiles"]
        },
        "cpu_seconds": round(time.process_time() - began, 1),
    }


def is_found(result: dict[str, Any]) -> bool:
    """Tell whether every task's branch point is within one block of its planted layer."""
    return all(abs(count) <= 1 for count in result["blocks_apart"].values())


if __name__ == "__main__":
    main()
