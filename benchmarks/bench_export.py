"""How long a verified export takes beside torch's exporter alone, and what it gives: sizes and costs by task.

    python benchmarks/bench_export.py --rounds 3

Every model is exported in turns by `torch.onnx.export(dynamo=True)` alone, to a file as well, and by lomt: to one file,
the same with its verification, and, of the recipe's network, with one verified file more for each task; one warm-up
first. The target is for one verified file, in seconds on the clock with the threads that torch takes by itself: leave
the machine alone. Ratios of CPU seconds are kept beside. Writes `benchmarks/results/export.json`; exit status 1 if the
target is missed.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import timm
import torch
from torch import Tensor, nn

from lomt.atomic_file import write_atomically
from lomt.deploy import count_cost, describe_environment, export_files
from lomt.deploy.deployed_network import DeployedNetwork
from lomt.deploy.exporter import quiet_exporter
from lomt.deploy.inference_copy import inference_copy, task_outputs
from lomt.deploy.interface import Interface
from lomt.models import BackboneSpec, DecoderSpec, ModelSpec

_RESULT = Path(__file__).parent / "results" / "export.json"
_TARGET = 1.3
_JUDGED = "lomt, fixed size, verified"


def main() -> int:
    """Measure and write; tell by the exit status whether the target is met."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--open-size", action="store_true", help="also with height and width left open")
    parser.add_argument("--output", type=Path, default=_RESULT)
    arguments = parser.parse_args()
    models = {
        "nyuv2_lite0_lomt": (_recipe_model(), torch.rand(1, 3, 96, 128), True),
        "resnet50": (timm.create_model("resnet50"), torch.rand(1, 3, 224, 224), False),
    }
    found: dict[str, Any] = {}
    is_met = True
    for name, (model, images, by_task) in models.items():
        found[name] = _measure(model.eval(), images, arguments.rounds, by_task, arguments.open_size)
        print(name, json.dumps(found[name]["ratios"]), flush=True)
        is_met &= found[name]["ratios"][_JUDGED] <= _TARGET
        _write(
            {
                "environment": describe_environment(),
                "threads": torch.get_num_threads(),
                "target": _TARGET,
                "models": found,
            },
            arguments.output,
        )
    return 0 if is_met else 1


def _write(content: dict[str, Any], output: Path) -> None:
    text = json.dumps(content, indent=2) + "\n"
    write_atomically(output, lambda path: path.write_text(text))


def _recipe_model() -> nn.Module:
    """Return the rewired network of the NYU-v2 recipe with random weights: cost and time do not depend on them."""
    channels = {"segmentation": 13, "depth": 1, "normals": 3, "edges": 1}
    points = {
        "segmentation": "blocks.4.2",
        "depth": "blocks.4.2",
        "normals": "blocks.4.2",
        "edges": "blocks.1.1",
    }
    return ModelSpec(
        BackboneSpec("tf_efficientnet_lite0", 8),
        {task: DecoderSpec("aspp", width=32 if task == "edges" else 64) for task in channels},
        channels,
        dict.fromkeys(channels, True),
        points,
    ).build()


def _measure(
    model: nn.Module, images: Tensor, rounds: int, by_task: bool, with_open_size: bool
) -> dict[str, Any]:
    names = list(task_outputs(inference_copy(model), images))
    with TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        files: dict[Path, list[str] | None] = {path: None}
        if by_task:
            files.update({Path(folder, f"{task}.onnx"): [task] for task in names})
        arms: dict[str, Callable[[], Any]] = {
            "torch, fixed size": lambda: _torch_alone(model, names, images, {}, path),
            "lomt, fixed size": lambda: export_files(
                model, images, {path: None}, fixed_size=True, verify=False
            ),
            _JUDGED: lambda: export_files(model, images, {path: None}, fixed_size=True),
        }
        if by_task:
            arms["lomt, fixed size, verified, and a file for each task"] = lambda: export_files(
                model, images, files, fixed_size=True
            )
        if with_open_size:
            sizes = dict.fromkeys((2, 3), torch.export.Dim.AUTO)
            arms["torch, open size"] = lambda: _torch_alone(model, names, images, sizes, path)
            arms["lomt, open size"] = lambda: export_files(model, images, {path: None}, verify=False)
        seconds: dict[str, list[float]] = {name: [] for name in arms}
        wall: dict[str, list[float]] = {name: [] for name in arms}
        arms["lomt, fixed size"]()  # the first export of a process fills the exporter's tables
        for _ in range(rounds):
            for name, arm in arms.items():
                start, began = time.process_time(), time.perf_counter()
                arm()
                seconds[name].append(time.process_time() - start)
                wall[name].append(time.perf_counter() - began)
                print(
                    f"{name}: {wall[name][-1]:.1f} s, {seconds[name][-1]:.1f} s of CPU",
                    file=sys.stderr,
                    flush=True,
                )
        costs = {file.stem: count_cost(file).to_dict() for file in files}
    return {
        "cpu_seconds": seconds,
        "wall_seconds": wall,
        "ratios": _ratios(wall),
        "cpu_ratios": _ratios(seconds),
        "costs": costs,
    }


def _ratios(seconds: dict[str, list[float]]) -> dict[str, float]:
    """Return the median over rounds of each arm's time over that of torch's exporter with the same open sizes."""
    ratios = {}
    for name, own in seconds.items():
        if name.startswith("lomt"):
            alone = seconds["torch, open size" if "open" in name else "torch, fixed size"]
            ratios[name] = round(median(a / b for a, b in zip(own, alone, strict=True)), 3)
    return ratios


def _torch_alone(
    model: nn.Module, names: list[str], images: Tensor, sizes: dict[int, Any], path: Path
) -> None:
    network = DeployedNetwork(model, names, Interface()).eval()
    with quiet_exporter(), torch.no_grad():
        torch.onnx.export(
            network,
            (images.repeat(2, 1, 1, 1),),
            path,
            dynamo=True,
            verbose=False,
            external_data=False,
            opset_version=18,
            input_names=["images"],
            dynamic_shapes=({0: torch.export.Dim("batch"), **sizes},),
        )


if __name__ == "__main__":
    sys.exit(main())
