"""Run the stages in order and skip what is up to date."""

from collections.abc import Callable, Mapping
from pathlib import Path

from lomt.errors import ArtifactError, UnknownNameError
from lomt.pipeline.bench_stage import run_bench
from lomt.pipeline.context import Context, open_context, wait_for_all
from lomt.pipeline.export_stage import run_export
from lomt.pipeline.finetune_stage import run_finetune
from lomt.pipeline.locate_stage import run_locate
from lomt.pipeline.prune_stage import run_prune
from lomt.pipeline.quantize_stage import run_quantize
from lomt.pipeline.rewire_stage import run_rewire
from lomt.pipeline.skipped import note_skipped
from lomt.pipeline.sparsify_stage import run_sparsify
from lomt.pipeline.summary import RunSummary, summarise
from lomt.pipeline.target_alone import run_target_alone
from lomt.pipeline.train_stage import run_train
from lomt.recipe import Recipe
from lomt.training import Progress

__all__ = ["STAGES", "run"]


def _run_train(context: Context) -> None:
    """Train the dense network, and a target by itself beside it."""
    run_train(context)
    run_target_alone(context)


_STAGES: Mapping[str, Callable[[Context], None]] = {
    "train": _run_train,
    "locate": run_locate,
    "rewire": run_rewire,
    "sparsify": run_sparsify,
    "prune": run_prune,
    "finetune": run_finetune,
    "export": run_export,
    "quantize": run_quantize,
    "bench": run_bench,
}
STAGES = tuple(_STAGES)
_OPTIONAL = {
    "sparsify": "Give a target, for example with --set sparsify.target.macs=0.5.",
    "prune": "Give a budget, for example with --set prune.macs=0.5.",
    "finetune": "Name the task to go on for, for example with --set finetune.target=depth.",
    "quantize": "Set a key of it, for example with --set quantize.share=0.99.",
}
"""Stages that a recipe may leave out, and what to give so that it does not."""


def run(
    recipe: Recipe,
    out: Path,
    *,
    first: str = STAGES[0],
    last: str = STAGES[-1],
    branch_points: Path | None = None,
    progress: Progress | None = None,
) -> RunSummary:
    """Run a recipe's stages from ``first`` to ``last``; a stage that is up to date is skipped.

    A run killed at any moment goes on from its last checkpoint when called again, and ends with the weights
    that it would have had.

    Args:
        recipe: Validated.
        out: The run directory.
        first: Stages before it are not run; what they wrote has to be there and to fit the recipe.
        last: Stages after it are not run.
        branch_points: File that the rewire stage reads in place of the recipe's or locate's branch points.
        progress: Told what runs.

    Raises:
        UnknownNameError: If there is no such stage.
        ArtifactError: If the directory belongs to another recipe, a stage before ``first`` has not run, or ``last``
            is ``"sparsify"``, ``"prune"``, ``"finetune"`` or ``"quantize"`` and the recipe has no such block.
        QuantizationError: If a task cannot keep its quality in int8.
        ValueError: If ``last`` comes before ``first``, or the device is not there.
        DataError: If the data are not as described.
        TrainingError: If a loss is not finite.
        ExportMismatchError: If an exported network is not the trained one.
    """
    for stage in (first, last):
        if stage not in STAGES:
            raise UnknownNameError("stage", stage, STAGES)
    if STAGES.index(last) < STAGES.index(first):
        raise ValueError(f"Expected the last stage to be `{first}` or later, but got `{last}`.")
    if last in _OPTIONAL and getattr(recipe, last) is None:
        raise ArtifactError(
            f"Expected recipe `{recipe.name}` to have a block `{last}`, because that stage was asked for, but it has "
            f"none. {_OPTIONAL[last]}"
        )
    context = open_context(recipe, out, progress)
    are_given = branch_points is not None or recipe.rewire.branch_points is not None
    for stage in STAGES[: STAGES.index(last) + 1]:
        if stage == "locate" and are_given and last != "locate":
            continue
        context.may_run = STAGES.index(stage) >= STAGES.index(first)
        if stage == "rewire":
            run_rewire(context, branch_points)
        else:
            _STAGES[stage](context)
        note_skipped(context)
        wait_for_all()
    return summarise(context.directory, recipe, context.parts)
