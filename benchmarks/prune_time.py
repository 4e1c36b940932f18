"""Time and memory of a whole pruning, from the bare model to the smaller one, beside Torch-Pruning's.

Pairs alternate which tool goes first. Torch-Pruning changes the model in place and gets a copy, made outside its
time; `lomt` makes its own copies, and proves the cut, inside its time. What memory a tool takes is found in a
process of its own: with the model built and one forward pass done, freed memory is given back to the system and
the kernel's mark of the largest resident set is reset; the mark after pruning less the resident set before is the
extra memory, the smaller model included. Needs Linux.
"""

import copy
import ctypes
import gc
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
import torch_pruning
from torch import nn

from lomt.pruning.prune import prune

# Norms that start at zero would make their branches dead, and `lomt` would take these out first.
MODELS: dict[str, dict[str, Any]] = {"resnet50": {"zero_init_last": False}, "vit_small_patch16_224": {}}
MOST_TIMES, MOST_MEMORY = 1.5, 2.0
CHANNELS = 0.5
_SIZE = 224


def measure_time(pairs: int) -> dict[str, dict[str, Any]]:
    """Return times, memory and missed targets by name of the network."""
    return {name: _measure(name, pairs) for name in MODELS}


def _measure(name: str, pairs: int) -> dict[str, Any]:
    model, image = _model(name), torch.rand(1, 3, _SIZE, _SIZE)
    for tool in TOOLS.values():
        tool(model, image)()
    times: dict[str, list[float]] = {tool: [] for tool in TOOLS}
    for turn in range(pairs):
        for tool in list(TOOLS)[:: 1 if turn % 2 else -1]:
            times[tool].append(_seconds(TOOLS[tool](model, image)))
    ratio = statistics.median(times["lomt"]) / statistics.median(times["torch_pruning"])
    memory = {tool: _apart(name, tool) for tool in TOOLS}
    missed = []
    if ratio > MOST_TIMES:
        missed.append(f"takes {ratio:.2f} times as long as Torch-Pruning, more than {MOST_TIMES}")
    if memory["lomt"]["extra_over_model"] > MOST_MEMORY:
        extra = memory["lomt"]["extra_over_model"]
        missed.append(f"takes {extra:.2f} times the model's size of memory, more than {MOST_MEMORY}")
    return {
        "seconds": {tool: _spread(values) for tool, values in times.items()},
        "ratio_of_medians": round(ratio, 3),
        "ratio_of_pairs": _spread([own / other for own, other in zip(*times.values(), strict=True)]),
        "memory": memory,
        "missed": missed,
    }


def _model(name: str) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, **MODELS[name]).eval()


def _lomt(model: nn.Module, image: torch.Tensor) -> Callable[[], Any]:
    return lambda: prune(model, image, channels=CHANNELS)


def _torch_pruning(model: nn.Module, image: torch.Tensor) -> Callable[[], Any]:
    own = copy.deepcopy(model)

    def step() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch_pruning.pruner.MetaPruner(
                own,
                image,
                importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
                global_pruning=True,
                pruning_ratio=1 - CHANNELS,
                round_to=8,
                num_heads={part.qkv: part.num_heads for part in own.modules() if hasattr(part, "qkv")},
                ignored_layers=[own.get_classifier()],
                # Fresh ones: the defaults are shared between pruners.
                in_channel_groups={},
                out_channel_groups={},
            ).step()

    return step


TOOLS: dict[str, Callable[[nn.Module, torch.Tensor], Callable[[], Any]]] = {
    "lomt": _lomt,
    "torch_pruning": _torch_pruning,
}


def _seconds(work: Callable[[], None]) -> float:
    gc.collect()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _spread(values: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 3),
        "least": round(min(values), 3),
        "most": round(max(values), 3),
        "count": len(values),
    }


def _apart(name: str, tool: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, __file__, name, tool], check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def measure_memory(name: str, tool: str) -> dict[str, float]:
    """Return the extra memory of one pruning, in bytes and relative to the model; for a fresh process."""
    torch.set_num_threads(1)
    model, image = _model(name), torch.rand(1, 3, _SIZE, _SIZE)
    with torch.no_grad():
        model(image)
    work = TOOLS[tool](model, image)  # a copy for Torch-Pruning is not counted against it
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    work()
    extra = _resident("VmHWM") - before
    size = sum(own.nbytes for own in (*model.parameters(), *model.buffers()))
    return {"model_bytes": size, "extra_bytes": extra, "extra_over_model": round(extra / size, 3)}


def _resident(mark: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{mark}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"Expected /proc/self/status to have `{mark}`, but it has not.")


if __name__ == "__main__":
    print(json.dumps(measure_memory(*sys.argv[1:])))
