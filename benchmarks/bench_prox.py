"""What the proximal step costs beside a training step and beside Torch-Pruning's regulariser.

Run:      python benchmarks/bench_prox.py --output benchmarks/results/prox.json
Expected: at most 3 % of a training step in the Euclidean metric and 10 % in Adam's, and the Euclidean step at
          least 20 times cheaper than `GroupNormPruner.regularize`; exit status 1 if a target is missed.

Everything runs in one process. Each round times one training step (zero_grad, forward, backward, AdamW) and directly
after it one proximal step, the metrics taking turns. A Euclidean step is directly followed by one call of the
regulariser. Two kinds of pairs follow, all neighbours in time: each proximal step with the training step before it
gives a share; each call of the regulariser with the Euclidean step before it gives an advantage. Medians over these
pairs are judged; metrics and regulariser have the same number of them, 60 by default. Takes about three minutes on
two idle cores.
"""

import argparse
import itertools
import json
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from lomt.sparsity import METRICS, GroupLasso, measure_sparsity
from lomt.structure import channel_groups

# Branches that start at zero have no gradient in the first step, and Adam's metric would end them there.
MODELS: dict[str, dict[str, Any]] = {"resnet50": {"zero_init_last": False}, "tf_efficientnet_lite0": {}}
MOST_SHARE = {"euclidean": 0.03, "adam": 0.10}
LEAST_ADVANTAGE = 20.0
BATCH, SIZE = 8, (96, 128)
LAMBDA, LR = 1e-3, 1e-4
_WARM_UP, _BATCHES = 8, 64


def main() -> int:
    """Measure, print and store; tell by the exit status whether the targets are met."""
    options = _options()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    result = {
        "environment": _environment(options.threads),
        "settings": {
            "batch": BATCH,
            "size": SIZE,
            "lambda_": LAMBDA,
            "lr": LR,
        },
        "models": {name: measure(name, options.rounds) for name in MODELS},
    }
    result["environment"]["load_average_after"] = os.getloadavg()
    failures = [f"{name}: {text}" for name, row in result["models"].items() for text in row["missed"]]
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(result, indent=2) + "\n")
    for name, row in result["models"].items():
        print(name)
        for key, value in row.items():
            print(f"  {key}: {json.dumps(value)}")
    return 1 if failures else 0


def measure(name: str, rounds: int) -> dict[str, Any]:
    """Time training steps, proximal steps and the regulariser on one network."""
    model = timm.create_model(name, num_classes=10, **MODELS[name])
    regularize = _regulariser(model)
    model.train()  # Torch-Pruning leaves it in evaluation mode
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR)
    train = _training_step(model, optimizer)
    groups = channel_groups(model)
    lassos = {metric: GroupLasso(groups, LAMBDA, metric=metric) for metric in METRICS}
    for _ in range(_WARM_UP):  # long enough for the number of threads to be chosen
        train()
        for lasso in lassos.values():
            lasso.step(optimizer)
    regularize()

    times: dict[str, list[float]] = {"train": [], **{metric: [] for metric in METRICS}, "regularize": []}
    shares: dict[str, list[float]] = {metric: [] for metric in METRICS}
    advantages: list[float] = []
    for metric in METRICS * rounds:
        train_s, step_s = _seconds(train), _seconds(lambda m=metric: lassos[m].step(optimizer))
        times["train"].append(train_s)
        times[metric].append(step_s)
        shares[metric].append(step_s / train_s)
        if metric == "euclidean":
            times["regularize"].append(_seconds(regularize))
            advantages.append(times["regularize"][-1] / step_s)
    return _summary(times, shares, advantages, measure_sparsity(model).total.sparsity)


def _summary(
    times: dict[str, list[float]], shares: dict[str, list[float]], advantages: list[float], sparsity: float
) -> dict[str, Any]:
    share = {metric: statistics.median(values) for metric, values in shares.items()}
    advantage = statistics.median(advantages)
    missed = [
        f"{metric} step is {share[metric]:.1%} of a training step, more than {most:.0%}"
        for metric, most in MOST_SHARE.items()
        if share[metric] > most
    ]
    if advantage < LEAST_ADVANTAGE:
        missed.append(
            f"regularize takes {advantage:.1f} times as long, less than {LEAST_ADVANTAGE:.0f} times"
        )
    return {
        **{f"{name}_ms": _spread(values) for name, values in times.items()},
        "share_of_training_step": {name: round(value, 4) for name, value in share.items()},
        "regularize_over_euclidean": round(advantage, 1),
        "zero_groups_at_end": round(sparsity, 4),
        "missed": missed,
    }


def _training_step(model: nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    # Enough batches that they are not learned by heart: gradients that vanish would change what is measured.
    images = torch.rand(_BATCHES, BATCH, 3, *SIZE)
    targets = torch.randint(10, (_BATCHES, BATCH))
    turns = itertools.cycle(range(_BATCHES))

    def step() -> None:
        turn = next(turns)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[turn]), targets[turn]).backward()
        optimizer.step()

    return step


def _regulariser(model: nn.Module) -> Callable[[], None]:
    import torch_pruning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pruner = torch_pruning.pruner.GroupNormPruner(
            model,
            torch.rand(1, 3, *SIZE),
            importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
            # Fresh ones: the defaults are shared between pruners.
            in_channel_groups={},
            out_channel_groups={},
            num_heads={},
        )
        pruner.update_regularizer()
    return lambda: pruner.regularize(model)


def _seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _spread(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    p95 = ordered[min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))]
    return {
        "median": round(statistics.median(ordered) * 1e3, 3),
        "p95": round(p95 * 1e3, 3),
        "least": round(ordered[0] * 1e3, 3),
        "count": len(ordered),
    }


def _environment(threads: int) -> dict[str, Any]:
    import torch_pruning

    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "load_average_before": os.getloadavg(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": timm.__version__,
        "torch_pruning": torch_pruning.__version__,
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
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=60, help="timed steps per network and metric")
    parser.add_argument("--output", type=Path, help="where the result file goes")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
