"""The recipe's data seen by an ONNX file: samples, what its images and answers are, and its task metrics."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lomt.data import Split, TaughtDataset
from lomt.deploy import Interface, OnnxModel, Preprocessing
from lomt.deploy.deployed_network import raw_answer
from lomt.errors import ExportMismatchError
from lomt.pipeline.parts import Parts
from lomt.training import Progress, SilentProgress, evaluate

__all__ = [
    "Results",
    "check_metrics",
    "file_images",
    "interface_of",
    "metric_differences",
    "metric_sizes",
    "onnx_metrics",
    "preprocessing_of",
    "samples",
]

Results = Mapping[str, Mapping[str, float]]
_METRIC_TOLERANCE = 1e-3  # relative; arg max and thresholds turn rounding into rare flips of single pixels
_LEAST_SIZE = 1e-2


def interface_of(parts: Parts) -> Interface:
    """Return what files of the recipe's networks take and give when nothing is baked in."""
    return Interface(
        preprocessing_of(parts),
        {name: task.kind for name, task in parts.tasks.items()},
        {name: task.classes for name, task in parts.tasks.items() if task.classes},
    )


def preprocessing_of(parts: Parts) -> Preprocessing:
    """Return how images become what the recipe's networks take."""
    return Preprocessing(mean=parts.normalisation["mean"], std=parts.normalisation["std"])


def samples(parts: Parts, count: int) -> Tensor:
    """Return images of the test split in 0 to 1, as many as asked for or as there are."""
    loader = parts.loader("test", parts.recipe.train.model_copy(update={"batch_size": count}))
    images: Tensor = next(iter(loader.epoch(0)))["image"]
    return images


def file_images(parts: Parts, images: Tensor, interface: Interface) -> Tensor:
    """Return images in 0 to 1 as a file takes them."""
    preprocessing = interface.preprocessing
    if preprocessing is None or not preprocessing.is_baked:
        return parts.prepared(images)
    ordered = images.flip(1) if preprocessing.channel_order == "BGR" else images
    return ordered * preprocessing.highest


def onnx_metrics(
    parts: Parts,
    path: Path,
    interface: Interface,
    progress: Progress | None = None,
    shown: str | None = None,
    split: Split = "test",
) -> dict[str, dict[str, float]]:
    """Compute the metrics of a file's tasks.

    Args:
        parts: Data and tasks.
        path: The ONNX file.
        interface: What it takes and gives.
        progress: Told of every batch.
        shown: What the progress calls the file.
        split: Which samples.
    """
    network = OnnxModel(path, threads=parts.recipe.threads or torch.get_num_threads())
    loader = parts.loader(split, parts.recipe.train)
    # A task was added to a network with others that the recipe has no labels for: they have no metrics.
    tasks = {name: parts.tasks[name] for name in network.outputs if name in parts.tasks}

    def predict(images: Tensor) -> dict[str, Tensor]:
        answers = _run(network, np.ascontiguousarray(file_images(parts, images, interface).numpy()))
        return {
            name: raw_answer(name, torch.from_numpy(answer), interface, tasks[name].out_channels)
            for name, answer in answers.items()
            if name in tasks
        }

    told = progress or SilentProgress()
    told.start(f"testing {shown or path.name}", loader.batches_per_epoch)
    found = evaluate(predict, loader.epoch(0), tasks, targets=parts.targets, progress=told)
    told.finish()
    return found.metrics


def check_metrics(
    parts: Parts, expected: Results, interface: Interface, progress: Progress | None = None
) -> Callable[[Path, Path], Results]:
    """Return a function that recomputes a file's metrics and makes sure that they are PyTorch's.

    Args:
        parts: Data and tasks.
        expected: PyTorch's metrics by task.
        interface: What files take and give.
        progress: Told of every batch.
    """

    def check(partial: Path, path: Path) -> Results:
        found = onnx_metrics(parts, partial, interface, progress, path.name)
        for problem in metric_differences(path.name, found, expected, metric_sizes(parts)):
            raise ExportMismatchError(problem)
        return found

    return check


def metric_sizes(parts: Parts) -> Results:
    """Return how large an error could be, by task that is judged by its agreement with the original network and metric.

    Such a task's errors may be next to nothing, and then mostly rounding. Large is 1 for fractions, a radian for
    angles, and what the network answers on average for lengths and plain values.
    """
    if not parts.agreed:
        return {}
    data = parts.loader("test", parts.recipe.train).dataset
    assert isinstance(data, TaughtDataset), "there are agreed tasks"
    units = {"fraction": 1.0, "deg": math.degrees(1)}
    return {
        task: {
            info.name: units[info.unit] if info.unit in units else data.mean_size(task)
            for info in parts.tasks[task].metrics.infos
        }
        for task in parts.agreed
    }


def metric_differences(
    name: str, found: Results, expected: Results, sizes: Results | None = None
) -> list[str]:
    """List the metrics of a file that are not PyTorch's, a sentence each.

    Args:
        name: Of the file.
        found: Its metrics, by task.
        expected: PyTorch's.
        sizes: What differences are relative to where the metrics are smaller, by task and metric.
    """
    sizes = sizes or {}
    problems = []
    for task, metrics in found.items():
        for metric, actual in metrics.items():
            value = expected[task][metric]
            if math.isnan(value) and math.isnan(actual):
                continue
            size = max(abs(value), sizes.get(task, {}).get(metric, _LEAST_SIZE))
            if not abs(actual - value) <= _METRIC_TOLERANCE * size:
                problems.append(
                    f"Expected {metric} of task `{task}` to be {value:.6g} on {name} as in PyTorch, "
                    f"but got {actual:.6g}."
                )
    return problems


def _run(network: OnnxModel, images: np.ndarray) -> dict[str, np.ndarray]:
    """Run images through a file that may take one batch size only: the last image fills the last batch."""
    size = network.batch_size or len(images)
    parts = [images[start : start + size] for start in range(0, len(images), size)]
    filled = [np.concatenate([part, *[part[-1:]] * (size - len(part))]) for part in parts]
    answers = [network(part) for part in filled]
    return {
        name: np.concatenate([answer[name] for answer in answers])[: len(images)] for name in network.outputs
    }
