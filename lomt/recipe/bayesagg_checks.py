"""What aggregation `bayesagg` asks of tasks and their decoders."""

from collections.abc import Iterator

from lomt.recipe.checks import trainings
from lomt.recipe.problems import Problem
from lomt.recipe.settings import Recipe

__all__ = ["bayesagg_problems"]

_BECAUSE = "because `{}` is bayesagg"


def bayesagg_problems(recipe: Recipe) -> Iterator[Problem]:
    """Yield the tasks that `bayesagg` cannot aggregate, each once; one task alone is not aggregated.

    Args:
        recipe: A validated recipe or one read leniently.
    """
    from lomt.tasks import LOSSES
    from lomt.training.bayesagg_support import BAYESAGG_LOSSES

    asking = [path for path, train in trainings(recipe) if train.aggregation == "bayesagg"]
    if not asking or len(recipe.tasks) < 2:
        return
    because = _BECAUSE.format(".".join((*asking[0], "aggregation")))
    for name, task in recipe.tasks.items():
        if task.kind not in LOSSES:
            continue
        wanted = BAYESAGG_LOSSES.get(task.kind)
        got = task.loss or next(iter(LOSSES[task.kind]))
        if wanted is None:
            kinds = ", ".join(BAYESAGG_LOSSES)
            yield Problem(
                ("tasks", name, "kind"), f"expected one of {kinds}, {because}, but got {task.kind}."
            )
        elif got != wanted:
            yield Problem(("tasks", name, "loss"), f"expected {wanted}, {because}, but got {got}.")
        if task.decoder.kind == "aspp":
            yield Problem(("tasks", name, "decoder", "kind"), f"expected linear, {because}, but got aspp.")
        elif task.decoder.dropout:
            yield Problem(
                ("tasks", name, "decoder", "dropout"),
                f"expected 0, {because}, but got {task.decoder.dropout:g}.",
            )
