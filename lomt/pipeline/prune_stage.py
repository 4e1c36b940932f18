"""Stage ``prune``: channels go down to a budget, in rounds of cutting and training."""

import json
from collections.abc import Sequence
from dataclasses import replace

from lomt.atomic_file import write_text_atomically
from lomt.models import MultiTaskModel
from lomt.pipeline.context import Context
from lomt.pipeline.prune_rounds import Rounds, budget_of, counted_by, share_kept
from lomt.pruning.compose import compose
from lomt.pruning.plan import ComponentChange, PruningPlan
from lomt.pruning.storage import save

__all__ = ["run_prune"]


def run_prune(context: Context) -> None:
    """Cut and train the network that the recipe names and judge it on the test split; writes ``pruned/``.

    Without a ``prune`` block in the recipe nothing is done.
    """
    settings = context.recipe.prune
    if settings is None:
        return
    folder = context.folder("pruned", context.settings_key("prune"), context.keys[settings.target])
    if folder.is_finished:
        return
    rounds = Rounds(context, settings, folder)
    model, plans = rounds.run()
    assert isinstance(model, MultiTaskModel)
    # Its predictions are those of the file.
    judge = context.trainer(model, context.parts.tasks, settings.train, folder.path / "test")
    result = context.evaluate(judge, context.parts.tasks, settings.train, "pruned")
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
