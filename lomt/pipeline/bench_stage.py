"""Stage ``bench``: what the networks cost and how fast they are, measured side by side."""

from typing import Any

from lomt.deploy import count_cost, measure_latency
from lomt.pipeline.context import Context
from lomt.pipeline.export_stage import onnx_files

__all__ = ["run_bench"]


def run_bench(context: Context) -> None:
    """Measure the exported files; writes ``bench/``."""
    settings = context.recipe.bench
    folder = context.folder(
        "bench", context.keys["deploy"], settings.model_dump(mode="json", exclude={"delta_m"})
    )
    if folder.is_finished or not context.is_writer:
        return
    context.progress.message("bench: latency, interleaved")
    files = onnx_files(context.recipe)
    arms = {stage: context.directory.path / "deploy" / name for stage, name in files.items()}
    reports: dict[str, Any] = {}
    context.progress.start("timing", len(settings.threads))
    for threads in settings.threads:
        report = measure_latency(
            arms,
            baseline="dense",
            threads=threads,
            batch=settings.batch,
            input_shape=(3, *context.recipe.data.size),
            rounds=None if settings.quick else settings.rounds,
            seed=context.recipe.seed,
            quick=settings.quick,
        )
        reports[str(threads)] = report.to_dict(include_times=True)
        context.progress.advance()
    context.progress.finish()
    costs = {stage: count_cost(path).to_dict() for stage, path in arms.items()}
    folder.write_json("latency.json", {"threads": reports, "cost": costs})
    folder.finish()
