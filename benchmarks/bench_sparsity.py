"""What thresholds and controller cost beside a training step, and how much of what is zero can be removed.

Run:      python benchmarks/bench_sparsity.py --weights FILE --output benchmarks/results/sparsity.json
Expected: thresholds, group lasso and both, each with their controller, add at most 5 % to a training step; exit
          status 1 if one adds more. At 70 % zero channels coupled groups can all be removed, single layers' in part.

The network is that of recipes/nyuv2_lite0_lomt.yaml: tf_efficientnet_lite0 at stride 8 with four decoders; random
images. FILE holds the backbone's ImageNet weights; without it all weights are random, and the shares are those of
such a network. Times are processor time, to which other processes do not add. In each round every arm takes one
training step, in random order; an arm's overhead is the median over rounds of its step's time over the plain one's,
less one. Steps in which the controller acts are timed on their own and spread over the sixteen steps from one to the
next that a run of eight NYU-v2 epochs has.
"""

import argparse
import json
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lomt.models import BackboneSpec, DecoderSpec, ModelSpec, MultiTaskModel
from lomt.sparsity import (
    CoupledGroupLasso,
    SparsityController,
    add_group_thresholds,
    coupled_groups,
    macs_share,
    measure_removable,
)
from lomt.structure import Structure, trace_structure

TASKS = {"segmentation": 40, "depth": 1, "normals": 3, "edges": 1}
BATCH, SIZE = 8, (96, 128)
EVERY = 16
MOST_OVERHEAD = 0.05
ZERO = 0.7
_WARM_UP = 1
ARMS = {"thresholds": (True, None), "group lasso": (False, "euclidean"), "both": (True, "euclidean")}


def main() -> int:
    """Measure, print and store; tell by the exit status whether the target is met."""
    options = _options()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    result = {
        "environment": {
            "processor": platform.processor() or platform.machine(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "threads": options.threads,
            "load_average": os.getloadavg(),
        },
        "settings": {
            "batch": BATCH,
            "size": SIZE,
            "rounds": options.rounds,
            "steps_between_controls": EVERY,
            "clock": "processor time",
            "backbone": "ImageNet weights" if options.weights else "random weights",
        },
        "overhead": overhead(options.weights, options.rounds),
        "removable": removable(options.weights),
    }
    print(json.dumps(result, indent=2))
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(result, indent=2) + "\n")
    missed = [name for name, arm in result["overhead"].items() if arm["overhead"] > MOST_OVERHEAD]
    return 1 if missed else 0


def overhead(weights: Path | None, rounds: int) -> dict[str, Any]:
    """Time training steps with and without each of the arms."""
    steps = {"plain": _plain_step(weights)}
    controllers = {}
    for name, (has_thresholds, metric) in ARMS.items():
        steps[name], controllers[name] = _controlled_step(weights, has_thresholds, metric)
    for _ in range(_WARM_UP):
        for step in steps.values():
            step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name in random.sample(list(steps), len(steps)):
            times[name].append(_seconds(steps[name]))
    plain = statistics.median(times["plain"])
    found = {}
    for name, (controller, optimizer) in controllers.items():
        ratios = [own / base for own, base in zip(times[name], times["plain"], strict=True)]
        control = statistics.median(
            _seconds(lambda c=controller, o=optimizer: c._control(o)) for _ in range(5)
        )
        per_step = statistics.median(ratios) - 1
        found[name] = {
            "overhead": round(per_step + control / EVERY / plain, 4),
            "of_a_step_without_control": round(per_step, 4),
            "of_a_control_in_training_steps": round(control / plain, 4),
        }
    return found


def removable(weights: Path | None) -> list[dict[str, Any]]:
    """Set the smallest 70 % of the groups to zero, layer by layer or coupled, and count what can go."""
    rows = []
    for is_coupled in (False, True):
        model, structure = _model(weights)
        groups = coupled_groups(model, structure, component_of=model.component_of, is_coupled=is_coupled)
        levels = groups.levels()
        levels[groups.best_of_each_set(levels)] = torch.inf
        alive = torch.ones(groups.count)
        alive[levels.argsort()[: round(ZERO * groups.count)]] = 0
        groups.scale(alive)
        report = measure_removable(model, structure, component_of=model.component_of)
        channels = sum(own.channels for own in report.components)
        rows.append(
            {
                "groups": "coupled" if is_coupled else "single layers",
                "zero_groups": round(1 - float(alive.mean()), 4),
                "removable_channels": round(
                    sum(o.removable_channels for o in report.components) / channels, 4
                ),
                "components": {
                    own.name: {
                        "zero_weights": round(own.zero, 4),
                        "removable_channels": round(own.removable, 4),
                        "removable_parameters": round(own.removable_parameters / own.parameters, 4),
                    }
                    for own in report.components
                },
            }
        )
    return rows


def _model(weights: Path | None) -> tuple[MultiTaskModel, Structure]:
    torch.manual_seed(0)
    spec = ModelSpec(
        BackboneSpec("tf_efficientnet_lite0", 8),
        {task: DecoderSpec("aspp", width=64, rates=(6, 12, 18)) for task in TASKS},
        TASKS,
        dict.fromkeys(TASKS, True),
    )
    model = spec.build(weights)
    structure = trace_structure(model, torch.rand(1, 3, *SIZE))
    return model.to(memory_format=torch.channels_last), structure


def _plain_step(weights: Path | None) -> Callable[[], None]:
    model, _ = _model(weights)
    return _step(model, torch.optim.AdamW(model.parameters(), lr=1e-4))


def _controlled_step(
    weights: Path | None, has_thresholds: bool, metric: Any
) -> tuple[Callable[[], None], Any]:
    model, structure = _model(weights)
    groups = coupled_groups(model, structure, component_of=model.component_of)
    controller = SparsityController(
        groups,
        0.5,
        start=1,
        end=10**6,
        every=10**5,  # controls are timed on their own
        measure=macs_share(groups, structure),
        thresholds=add_group_thresholds(model, groups) if has_thresholds else None,
        lasso=CoupledGroupLasso(groups, 0.0, metric=metric) if metric else None,
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    controller.attach(optimizer)
    return _step(model, optimizer), (controller, optimizer)


def _step(model: nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    images = torch.rand(BATCH, 3, *SIZE).contiguous(memory_format=torch.channels_last)

    def step() -> None:
        """Take one training step."""
        predictions: dict[str, Tensor] = model(images)
        torch.stack([own.square().mean() for own in predictions.values()]).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _seconds(run: Callable[[], Any]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, help="safetensors file of the backbone")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
