"""Stage ``prune``: channels go down to a budget, in rounds of cutting and training."""

import json
from collections.abc import Sequence
from dataclasses import replace

import torch

from lomt.atomic_file import write_text_atomically
from lomt.models import TaskNetwork
from lomt.pipeline.context import Context
from lomt.pipeline.loss_batches import FirstBatches
from lomt.pipeline.prune_rounds import Rounds, budget_of, counted_by, share_kept
from lomt.pipeline.run_directory import StageFolder, read_json
from lomt.pruning.compose import compose
from lomt.pruning.plan import ComponentChange, PruningPlan
from lomt.pruning.ranking import BudgetError
from lomt.pruning.storage import load, save
from lomt.recipe.prune_settings import BUDGETS, PruneSettings
from lomt.structure import trace_structure

__all__ = ["PRUNED_ONLY", "run_prune"]

PRUNED_ONLY = "pruned_only"
"""Folder of the dense network that was cut to what the pruned one has left."""


def run_prune(context: Context) -> None:
    """Cut and train the network that the recipe names and judge it on the test split; writes ``pruned/``.

    Unless the recipe says otherwise, the dense network is cut and trained in the same way down to what is left of
    that one; writes ``pruned_only/``. Without a ``prune`` block in the recipe nothing is done.
    """
    settings = context.recipe.prune
    if settings is None:
        return
    folder = context.folder("pruned", context.settings_key("prune"), context.keys[settings.target])
    if not folder.is_finished:
        _prune(context, settings, folder)
    if not settings.has_pruned_only:
        return
    upstream = [context.keys[name] for name in ("dense", "pruned")]
    folder = context.folder(PRUNED_ONLY, context.settings_key("prune"), upstream)
    if folder.is_finished:
        return
    try:
        _prune(context, _for_dense(context, settings), folder)
    except BudgetError as error:
        raise BudgetError(
            f"{error} This is the dense network, which was to be cut to what is left of the {settings.target} one for "
            "comparison. Do without by --set prune.pruned_only=false."
        ) from error


def _for_dense(context: Context, settings: PruneSettings) -> PruneSettings:
    """Return settings that cut the dense network to what the pruned one has left, whatever its own budget counts."""
    name, target = budget_of(settings)
    if name != "latency_ms":
        name = "params" if name == "params" else "macs"
        plan = PruningPlan.from_dict(read_json(context.directory.path / "pruned" / "plan.json"))
        dense = load(context.directory.path / "dense")
        images = FirstBatches(context.parts, settings.train, torch.device("cpu")).example()
        target = min(1.0, getattr(plan, f"{name}_after") / getattr(trace_structure(dense, images), name)())
    return settings.model_copy(update={"target": "dense", **dict.fromkeys(BUDGETS), name: target})


def _prune(context: Context, settings: PruneSettings, folder: StageFolder) -> None:
    rounds = Rounds(context, settings, folder)
    model, plans = rounds.run()
    assert isinstance(model, TaskNetwork)
    # Its predictions are those of the file.
    judge = context.trainer(model, context.parts.tasks, settings.train, folder.path / "test")
    result = context.evaluate(judge, context.parts.tasks, settings.train, folder.path.name.replace("_", " "))
    name, target = budget_of(settings)
    if context.is_writer:
        lines = "".join(json.dumps(record) + "\n" for record in rounds.history())
        write_text_atomically(folder.path / "history.jsonl", lines)
        save(model, folder.path)
    folder.write_json("plan.json", _whole(plans).to_dict())
    folder.write_json(
        "metrics.json",
        {
            "split": "test",
            "target": settings.target,
            "branch_points": model.branch_points,
            "metrics": result.metrics,
            "losses": result.losses,
            "budget": {name: target},
            "kept": [share_kept(plans[: number + 1], counted_by(name)) for number in range(len(plans))],
            "kept_of": counted_by(name),
        },
    )
    folder.finish()
    if context.is_writer:
        rounds.clear()


def _whole(plans: Sequence[PruningPlan]) -> PruningPlan:
    """Return what all rounds did together: a record, while the saved model holds the rounds' own plans."""
    plan = compose(plans)
    first = {component.name: component for component in plans[0].components}
    components = tuple(_from(first.get(last.name, last), last) for last in plan.components)
    return replace(plan, components=components)


def _from(first: ComponentChange, last: ComponentChange) -> ComponentChange:
    return ComponentChange(
        last.name,
        (first.channels[0], last.channels[1]),
        (first.params[0], last.params[1]),
        (first.macs[0], last.macs[1]),
    )
