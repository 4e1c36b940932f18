"""Stage ``quantize``: an int8 file of the network to deploy, in which every task keeps its quality."""

from collections.abc import Mapping
from itertools import islice
from pathlib import Path

import numpy as np

from lomt.data import Split
from lomt.deploy.quantize import quantize_int8
from lomt.pipeline.context import Context
from lomt.pipeline.export_stage import onnx_files
from lomt.pipeline.onnx_quality import interface_of, onnx_metrics
from lomt.tasks import MetricInfo

__all__ = ["INT8_FILE", "run_quantize", "share_kept"]

INT8_FILE = "int8.onnx"


def run_quantize(context: Context) -> None:
    """Quantise ``model.onnx`` and judge it by every task's primary metric; writes ``quantized/``.

    The judge sees the validation split, or the test split where there is no validation split: then the choice of float
    layers has seen the images that the report is about. Without a ``quantize`` block in the recipe nothing is done.
    """
    settings = context.recipe.quantize
    if settings is None:
        return
    folder = context.folder("quantized", context.keys["deploy"], settings.model_dump(mode="json"))
    if folder.is_finished or not context.is_writer:
        return
    context.progress.message("quantize: int8, layer by layer where a task loses too much")
    parts = context.parts
    model = context.directory.path / "deploy" / list(onnx_files(context.recipe).values())[-1]
    split: Split = "test" if parts.dataset("validation") is None else "validation"
    reference = _metrics(context, model, split)

    def judge(file: Path) -> dict[str, float]:
        """Say what share of its primary metric each task keeps."""
        found = _metrics(context, file, split)
        return {
            task: share_kept(found[task], reference[task], parts.tasks[task].metrics.infos[0])
            for task in reference
        }

    result = quantize_int8(
        model,
        folder.path / INT8_FILE,
        _calibration_images(context, settings.images),
        judge,
        share=settings.share,
        method=settings.method,
        reduce_range=settings.reduce_range,
        keep_float=settings.keep_float,
    )
    test = {name: _metrics(context, file, "test") for name, file in _files(model, folder.path).items()}
    folder.write_json(
        "quantization.json",
        {**result.to_dict(), "path": INT8_FILE, "judged_on": split, "float_metrics": test["float"]},
    )
    folder.write_json("metrics.json", {"split": "test", "metrics": test["int8"]})
    context.progress.message(str(result))
    folder.finish()


def share_kept(found: Mapping[str, float], reference: Mapping[str, float], info: MetricInfo) -> float:
    """Return which share of a metric is left: found over reference, or reference over found where less is better.

    A metric that is not a number keeps nothing, unless the reference is none either.
    """
    value, float_value = found[info.name], reference[info.name]
    if np.isnan(float_value):
        return 1.0 if np.isnan(value) else 0.0
    above, below = (value, float_value) if info.higher_is_better else (float_value, value)
    if above == below:
        return 1.0
    share = above / below if below else float("inf")
    return 0.0 if np.isnan(share) else float(share)


def _files(model: Path, folder: Path) -> dict[str, Path]:
    return {"float": model, "int8": folder / INT8_FILE}


def _calibration_images(context: Context, count: int) -> list[np.ndarray]:
    """Return training images, as many as asked for or as there are, as networks take them."""
    settings = context.recipe.train
    batches = -(-count // settings.batch_size)
    loader = context.parts.loader("train", settings)
    found = [
        image
        for batch in islice(loader.epoch(0), batches)
        for image in np.ascontiguousarray(context.parts.prepared(batch["image"]).numpy())
    ]
    return found[:count]


def _metrics(context: Context, path: Path, split: Split) -> dict[str, dict[str, float]]:
    return onnx_metrics(context.parts, path, interface_of(context.parts), context.progress, split=split)
