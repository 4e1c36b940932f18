"""Stage ``export``: an ONNX file of every network of the run, checked by name, value and task metric."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lomt.deploy import OnnxModel, export_onnx, verify_onnx
from lomt.errors import ExportMismatchError
from lomt.models import MultiTaskModel
from lomt.pipeline.context import Context
from lomt.pruning.storage import load
from lomt.recipe import Recipe
from lomt.training import evaluate

__all__ = ["onnx_files", "run_export"]

_METRIC_TOLERANCE = 1e-3  # relative; arg max and thresholds turn rounding into rare flips of single pixels


def onnx_files(recipe: Recipe) -> dict[str, str]:
    """Return the files in ``deploy/`` by the stage folder each is made from; ``model.onnx``, the last, is to deploy."""
    optional = {"sparse": recipe.sparsify, "pruned": recipe.prune}
    stages = ["dense", "rewired", *(stage for stage, block in optional.items() if block is not None)]
    return {stage: f"{stage}.onnx" for stage in stages[:-1]} | {stages[-1]: "model.onnx"}


def run_export(context: Context) -> None:
    """Write and verify the ONNX files; writes ``deploy/``."""
    files = onnx_files(context.recipe)
    upstream = [context.keys[name] for name in files]
    folder = context.folder("deploy", context.settings_key("export"), upstream)
    if folder.is_finished or not context.is_writer:
        return
    context.progress.message("export: ONNX files and their verification")
    checked = {}
    for stage, name in files.items():
        path = folder.path / name
        try:
            checked[name] = _export(context, stage, path)
        except ExportMismatchError:
            path.unlink(missing_ok=True)
            raise
    folder.write_json("verification.json", {"passed": True, "files": checked})
    folder.finish()


def _export(context: Context, stage: str, path: Path) -> dict[str, Any]:
    settings = context.recipe.export
    model = load(context.directory.path / stage).eval()
    assert isinstance(model, MultiTaskModel)
    samples = _samples(context, max(settings.batch_sizes))
    export_onnx(model, samples[:1], path, opset=settings.opset, metadata=_metadata(context, model))
    values = verify_onnx(model, path, samples, batch_sizes=settings.batch_sizes)
    torch_metrics = _torch_metrics(context, stage)
    onnx_metrics = _onnx_metrics(context, path)
    _compare(path.name, onnx_metrics, torch_metrics)
    return {"values": values.to_dict(), "metrics": onnx_metrics}


def _torch_metrics(context: Context, stage: str) -> dict[str, dict[str, float]]:
    stored = context.directory.find_json(stage, "metrics.json")
    assert stored is not None, f"{stage} has run"
    metrics: dict[str, dict[str, float]] = stored["metrics"]
    return metrics


def _samples(context: Context, count: int) -> Tensor:
    loader = context.parts.loader("test", context.recipe.train.model_copy(update={"batch_size": count}))
    batch = next(iter(loader.epoch(0)))
    return context.parts.prepared(batch["image"])


def _onnx_metrics(context: Context, path: Path) -> dict[str, dict[str, float]]:
    network = OnnxModel(path, threads=context.recipe.threads or torch.get_num_threads())
    loader = context.parts.loader("test", context.recipe.train)

    def predict(images: Tensor) -> Mapping[str, Tensor]:
        outputs = network(np.ascontiguousarray(context.parts.prepared(images).numpy()))
        return {name: torch.from_numpy(value) for name, value in outputs.items()}

    context.progress.start(f"testing {path.name}", loader.batches_per_epoch)
    result = evaluate(
        predict,
        loader.epoch(0),
        context.parts.tasks,
        targets=context.parts.targets,
        progress=context.progress,
    )
    context.progress.finish()
    return result.metrics


def _compare(
    name: str, found: Mapping[str, Mapping[str, float]], expected: Mapping[str, Mapping[str, float]]
) -> None:
    for task, metrics in expected.items():
        for metric, value in metrics.items():
            actual = found[task][metric]
            if math.isnan(value) and math.isnan(actual):
                continue
            if not abs(actual - value) <= _METRIC_TOLERANCE * max(abs(value), 1e-2):
                raise ExportMismatchError(
                    f"Expected {metric} of task `{task}` to be {value:.6g} on {name} as in PyTorch, "
                    f"but got {actual:.6g}."
                )


def _metadata(context: Context, model: MultiTaskModel) -> dict[str, str]:
    parts = context.parts
    return {
        "mean": json.dumps(parts.normalisation["mean"]),
        "std": json.dumps(parts.normalisation["std"]),
        "image": "RGB, 0 to 1, minus mean, divided by std; batch, channels, height, width",
        "kinds": json.dumps({name: task.kind for name, task in parts.tasks.items()}),
        "classes": json.dumps({name: task.classes for name, task in parts.tasks.items() if task.classes}),
        "branch_points": json.dumps(dict(model.branch_points)),
    }
