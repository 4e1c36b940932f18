"""How far two locate methods are apart, task by task."""

from collections.abc import Mapping, Sequence

from lomt.errors import UnknownNameError

__all__ = ["layers_apart"]


def layers_apart(
    points: Mapping[str, str], others: Mapping[str, str], layers: Sequence[str]
) -> dict[str, int]:
    """Return by task how many candidate layers lie between its two branch points.

    Args:
        points: Layer by task.
        others: The other method's, of the same tasks.
        layers: All candidates in forward order.

    Returns:
        0 where they agree; positive where the other method's layer is deeper.

    Raises:
        UnknownNameError: If a branch point is no candidate, or a task is missing from `others`.

    Example:
        >>> layers_apart({"depth": "layer2"}, {"depth": "layer4"}, ["layer1", "layer2", "layer3", "layer4"])
        {'depth': 2}
    """
    place = {name: index for index, name in enumerate(layers)}
    for task in points:
        if task not in others:
            raise UnknownNameError("task", task, others)
        for layer in (points[task], others[task]):
            if layer not in place:
                raise UnknownNameError(f"layer of task `{task}`", layer, layers)
    return {task: place[others[task]] - place[points[task]] for task in points}
