"""Which part of what a model returns is which task's prediction."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, fx

from lomt.errors import LomtError

__all__ = ["AdoptionError", "find_answers"]


class AdoptionError(LomtError, ValueError):
    """A model that cannot be taken over as it was described."""


def find_answers(
    output: Any,
    values: Mapping[fx.Node, Any],
    outputs: Mapping[str, str],
    tasks: Sequence[str],
    lone: str = "prediction",
) -> dict[str, fx.Node]:
    """Return the node of each task's prediction.

    Args:
        output: What the graph returns: nodes in dictionaries, tuples and lists.
        values: What every node computes.
        outputs: By task, where its prediction is: keys and positions with dots between, such as ``"0"`` or
            ``"heads.depth"``; empty for a dictionary whose keys are the tasks.
        tasks: The tasks, in order; all that the model returns where none is given.
        lone: The task of a model that returns one tensor.

    Raises:
        AdoptionError: A task has no prediction, or what it has is no single tensor.
    """
    named = dict(_named("", output, values))
    if not outputs and list(named) == [""] and len(tasks) < 2:
        return {tasks[0] if tasks else lone: named[""]}
    wanted = list(tasks) or list(outputs) or list(named)
    places = {task: outputs.get(task, task) for task in wanted}
    problems = [task for task, place in places.items() if place not in named]
    if problems:
        raise AdoptionError(_mismatch(problems, places, named, outputs))
    for task, place in places.items():
        if not isinstance(values.get(named[place]), Tensor):
            kind = type(values.get(named[place])).__name__
            raise AdoptionError(
                f"Expected the prediction of task `{task}`, `{place}`, to be a tensor, but got {kind}. "
                "Say under `outputs` where it is."
            )
    twice = [task for task, place in places.items() if list(places.values()).count(place) > 1]
    if twice:
        raise AdoptionError(
            f"Expected every task to have a prediction of its own, but {' and '.join(twice)} have `{places[twice[0]]}`."
        )
    return {task: named[place] for task, place in places.items()}


def _named(path: str, output: Any, values: Mapping[fx.Node, Any]) -> Iterator[tuple[str, fx.Node]]:
    below: Iterator[tuple[Any, Any]]
    if isinstance(output, Mapping):
        below = iter(output.items())
    elif isinstance(output, list | tuple):
        below = iter(enumerate(output))
    else:
        if isinstance(output, fx.Node):
            yield path, output
        return
    for key, part in below:
        yield from _named(f"{path}.{key}" if path else str(key), part, values)


def _mismatch(
    problems: Sequence[str], places: Mapping[str, str], named: Mapping[str, Any], outputs: Mapping[str, str]
) -> str:
    listed = ", ".join(f"`{name}`" for name in named) or "nothing that can be followed"
    if list(named) == [""]:
        listed = "one tensor"
    missing = ", ".join(
        f"`{task}`" if places[task] == task else f"`{task}` (at `{places[task]}`)" for task in problems
    )
    way = "Correct them." if outputs else "Name where each is, for example `outputs: {depth: 1}`."
    return f"Expected the model to return predictions of {missing}, but it returns {listed}. {way}"
