"""Stage ``bench``: what the networks cost and how fast they are, measured side by side."""

from pathlib import Path
from typing import Any

from lomt.deploy import count_cost, measure_latency
from lomt.deploy.latency_schema import LatencyFile
from lomt.pipeline.context import Context
from lomt.pipeline.export_stage import onnx_files, task_files
from lomt.pipeline.finetune_stage import FINETUNED, tuned_task
from lomt.pipeline.prune_stage import PRUNED_ONLY
from lomt.pipeline.quantize_stage import INT8_FILE
from lomt.recipe import Recipe

__all__ = ["arm_titles", "bench_arms", "run_bench"]


def run_bench(context: Context) -> None:
    """Measure the exported files; writes ``bench/``.

    ``latency.json`` holds by number of threads what :class:`lomt.deploy.latency_schema.LatencyFile` describes, single
    runs included, and the files' costs.
    """
    settings = context.recipe.bench
    folder = context.folder(
        "bench",
        [context.keys["deploy"], context.keys.get("quantized")],
        settings.model_dump(mode="json", exclude={"delta_m"}),
    )
    if folder.is_finished or not context.is_writer:
        return
    context.progress.message("bench: latency, interleaved")
    arms = bench_arms(context.recipe, context.directory.path)
    reports: dict[str, Any] = {}
    context.progress.start("timing", len(settings.threads))
    for threads in settings.threads:
        report = measure_latency(
            arms,
            baseline="dense",
            threads=threads,
            batch=settings.batch,
            input_shape=(context.parts.channels, *context.recipe.data.size),
            rounds=settings.rounds,
            seconds=settings.seconds,
            seed=context.recipe.seed,
            quick=settings.quick,
        )
        reports[str(threads)] = report.to_dict(include_times=True)
        LatencyFile.model_validate(reports[str(threads)])
        context.progress.advance()
    context.progress.finish()
    costs = {name: count_cost(path, size=context.recipe.data.size).to_dict() for name, path in arms.items()}
    folder.write_json("latency.json", {"threads": reports, "cost": costs})
    folder.finish()


def bench_arms(recipe: Recipe, directory: Path) -> dict[str, Path]:
    """Return the files that are compared, by arm: the run's networks, single tasks' files and int8, where they are.

    Args:
        recipe: Of the run.
        directory: The run's.
    """
    deploy = directory / "deploy"
    arms = {stage: deploy / name for stage, name in onnx_files(recipe).items()}
    arms |= {f"task {task}": deploy / name for task, name in task_files(recipe).items()}
    if recipe.quantize is not None:
        arms["int8"] = directory / "quantized" / INT8_FILE
    return arms


def arm_titles(recipe: Recipe) -> dict[str, str]:
    """Return what a table calls the arms that are named after stages."""
    pruned = "pruned only" if recipe.prune is not None and recipe.prune.target == "dense" else "pruned LOMT"
    titles = {"dense": "dense", "rewired": "truncated only", "sparse": "sparse LOMT"}
    if recipe.finetune is not None:
        titles[FINETUNED] = f"fine-tuned for {tuned_task(recipe)}"
    return {**titles, PRUNED_ONLY: "pruned only", "pruned": pruned}
