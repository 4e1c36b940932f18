"""The target beside what it reaches in a network of its own."""

from collections.abc import Mapping, Sequence
from typing import Any

from lomt.pipeline.text_cells import aligned, change, label, shown
from lomt.tasks import MetricInfo

__all__ = ["target_table"]


def target_table(
    alone: Mapping[str, Any], infos: Sequence[MetricInfo], multitask: Mapping[str, float]
) -> list[str]:
    """Return the lines of a table: a metric a row, the multitask network with its change against the target alone.

    Args:
        alone: What stage ``train`` stores of the target's own trainings, see :mod:`lomt.pipeline.target_alone`.
        infos: The target's metrics.
        multitask: Its values in the dense multitask network.
    """
    epochs, seconds = alone["multitask"]["epochs"], alone["multitask"]["seconds"]
    steps, time = alone["equal_steps"], alone["equal_time"]
    rows: list[tuple[str, ...]] = [
        (
            f"{alone['task']}, the target",
            f"alone, {steps['epochs']} epochs",
            f"alone, {time['epochs']} epochs",
            "multitask",
            "at equal steps",
            "at equal time",
        )
    ]
    for index, info in enumerate(infos):
        value, by_steps, by_time = (own[info.name] for own in (multitask, steps["metrics"], time["metrics"]))
        changes = (change(by_steps, value), change(by_time, value))
        rows.append((label(info, is_primary=index == 0), *map(shown, (by_steps, by_time, value)), *changes))
    return [
        *aligned(rows, left=(0,)),
        f"training: multitask {epochs} epochs in {seconds:.3g} s, alone {_took(steps)} and {_took(time)}",
    ]


def _took(training: Mapping[str, Any]) -> str:
    return f"{training['epochs']} in {training['seconds']:.3g} s"
