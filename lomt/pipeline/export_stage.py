"""Stage ``export``: ONNX files of the run's networks, checked by name, value and task metric."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lomt.deploy import count_cost, export_files
from lomt.errors import ExportMismatchError
from lomt.models import TaskNetwork
from lomt.pipeline.context import Context
from lomt.pipeline.finetune_stage import FINETUNED
from lomt.pipeline.onnx_quality import check_metrics, file_images, interface_of, samples
from lomt.pipeline.prune_stage import PRUNED_ONLY
from lomt.pruning.storage import load
from lomt.recipe import Recipe

__all__ = ["onnx_files", "run_export", "task_files"]

_RESERVED = ("dense", FINETUNED, "int8", "model", "pruned", PRUNED_ONLY, "rewired", "sparse")


def onnx_files(recipe: Recipe) -> dict[str, str]:
    """Return the files in ``deploy/`` by the stage folder each is made from; ``model.onnx``, the last, is to deploy."""
    optional = {
        "sparse": recipe.sparsify is not None,
        PRUNED_ONLY: recipe.prune is not None and recipe.prune.has_pruned_only,
        "pruned": recipe.prune is not None,
        FINETUNED: recipe.finetune is not None,
    }
    stages = ["dense", "rewired", *(stage for stage, is_there in optional.items() if is_there)]
    return {stage: f"{stage}.onnx" for stage in stages[:-1]} | {stages[-1]: "model.onnx"}


def task_files(recipe: Recipe) -> dict[str, str]:
    """Return the files in ``deploy/`` that hold one task of the network to deploy each, by task."""
    return {task: f"task_{task}.onnx" if task in _RESERVED else f"{task}.onnx" for task in recipe.tasks}


def run_export(context: Context) -> None:
    """Write and verify the ONNX files; writes ``deploy/``."""
    files = onnx_files(context.recipe)
    upstream = [context.keys[name] for name in files]
    folder = context.folder("deploy", context.settings_key("export"), upstream)
    if folder.is_finished or not context.is_writer:
        return
    context.progress.message("export: ONNX files and their verification")
    checked: dict[str, Any] = {}
    for stage, name in files.items():
        wanted: dict[Path, list[str] | None] = {folder.path / name: None}
        if name == list(files.values())[-1]:
            own = task_files(context.recipe).items()
            wanted.update({folder.path / task_name: [task] for task, task_name in own})
        try:
            checked.update(_export(context, stage, wanted))
        except ExportMismatchError:
            for path in wanted:
                path.unlink(missing_ok=True)
            raise
    folder.write_json("verification.json", {"passed": True, "files": checked})
    folder.write_json("cost.json", {name: count_cost(folder.path / name).to_dict() for name in checked})
    folder.finish()


def _export(context: Context, stage: str, files: Mapping[Path, list[str] | None]) -> dict[str, Any]:
    settings, parts = context.recipe.export, context.parts
    model = load(context.directory.path / stage).eval()
    assert isinstance(model, TaskNetwork)
    interface = interface_of(parts)
    images = file_images(parts, samples(parts, max(settings.batch_sizes)), interface)
    exported = export_files(
        model,
        images[:1],
        files,
        opset=settings.opset,
        interface=interface,
        fixed_size=not settings.open_size,
        metadata={"branch_points": json.dumps(dict(model.branch_points))},
        samples=images,
        batch_sizes=settings.batch_sizes,
        further_check=check_metrics(parts, _torch_metrics(context, stage), interface, context.progress),
    )
    return {file.path.name: file.to_dict() for file in exported}


def _torch_metrics(context: Context, stage: str) -> dict[str, dict[str, float]]:
    stored = context.directory.find_json(stage, "metrics.json")
    assert stored is not None, f"{stage} has run"
    metrics: dict[str, dict[str, float]] = stored["metrics"]
    return metrics
