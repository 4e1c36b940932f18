"""The relative gain over a baseline in one number."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["DeltaM", "delta_m"]

Reduction = Literal["mean", "sum"]
Results = Mapping[str, Mapping[str, float]]
Directions = Mapping[str, bool] | Mapping[str, Mapping[str, bool]]


@dataclass(frozen=True)
class DeltaM:
    """A relative gain over a baseline; as a string it says how it was reduced and against what.

    Args:
        value: Mean over tasks, a fraction; positive is better, NaN if no task could be compared.
        per_task: Each compared task's gain.
        reduction: How the metrics of a task were put together.
        baseline_name: What the gain is relative to.
        skipped: Every ``task.metric`` left out, and why.
    """

    value: float
    per_task: Mapping[str, float]
    reduction: Reduction
    baseline_name: str
    skipped: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        tasks = ", ".join(f"{task} {gain:+.2%}" for task, gain in self.per_task.items())
        lines = [f"delta_m {self.value:+.2%} ({self.reduction} over metrics, baseline {self.baseline_name})"]
        lines += [f"  per task: {tasks}"] if tasks else []
        lines += [f"  left out: {', '.join(self.skipped)}"] if self.skipped else []
        return "\n".join(lines)


def delta_m(
    results: Results,
    baseline: Results,
    higher_is_better: Directions,
    *,
    baseline_name: str,
    reduction: Reduction = "mean",
) -> DeltaM:
    r"""Measure the signed relative change of all tasks' metrics against a baseline.

    .. math::
        \Delta_m = \frac1T \sum_t \operatorname{reduce}_k \; (-1)^{l_{tk}} \frac{M_{tk} - B_{tk}}{|B_{tk}|}

    where :math:`l_{tk}` is 1 if lower is better, and reduce is the mean over a task's metrics, or their sum
    as in AdapMTL's tables. A metric whose baseline is missing, zero or not finite is left out and named, as
    is one that only the baseline has; a result that is NaN makes the value NaN. The published formula divides
    by :math:`B`, which is the same wherever :math:`B > 0`.

    Args:
        results: Numbers by task and metric; pass only those that shall count.
        baseline: The same for the model compared with.
        higher_is_better: By metric, or by task and metric.
        baseline_name: Name of the baseline, such as ``"stl"`` or ``"mtl"``.
        reduction: ``"mean"`` or ``"sum"`` over a task's metrics; tasks are always averaged.

    Raises:
        ValueError: The reduction is neither, or a metric's direction is not given.

    Example:
        >>> ours, theirs = {"depth": {"rmse": 0.9}}, {"depth": {"rmse": 1.0}}
        >>> print(delta_m(ours, theirs, {"rmse": False}, baseline_name="stl"))
        delta_m +10.00% (mean over metrics, baseline stl)
          per task: depth +10.00%

    References:
        Attentive single-tasking of multiple tasks, Maninis, Radosavovic and Kokkinos, 2019,
        https://arxiv.org/abs/1904.08918; AdapMTL, Xiang et al., 2024,
        https://arxiv.org/abs/2408.03913 (the sum).
    """
    if reduction not in ("mean", "sum"):
        raise ValueError(f"Expected `reduction` to be 'mean' or 'sum', but got {reduction!r}.")
    per_task: dict[str, float] = {}
    skipped: list[str] = []
    for task in [*results, *(task for task in baseline if task not in results)]:
        gains, left_out = _task_gains(task, results, baseline, higher_is_better)
        skipped += left_out
        if gains:
            per_task[task] = sum(gains) / (len(gains) if reduction == "mean" else 1)
    value = sum(per_task.values()) / len(per_task) if per_task else math.nan
    return DeltaM(value, per_task, reduction, baseline_name, tuple(skipped))


def _task_gains(
    task: str, results: Results, baseline: Results, higher_is_better: Directions
) -> tuple[list[float], list[str]]:
    """Collect the gains of one task's comparable metrics, and the others' names with the reason."""
    ours, theirs = results.get(task, {}), baseline.get(task, {})
    gains, skipped = [], []
    for metric in [*ours, *(metric for metric in theirs if metric not in ours)]:
        reason = _reason_to_skip(ours.get(metric), theirs.get(metric))
        if reason:
            skipped.append(f"{task}.{metric} ({reason})")
        else:
            change = (ours[metric] - theirs[metric]) / abs(theirs[metric])
            gains.append(change if _is_higher_better(task, metric, higher_is_better) else -change)
    return gains, skipped


def _reason_to_skip(ours: float | None, theirs: float | None) -> str | None:
    if ours is None:
        return "no result"
    if theirs is None:
        return "no baseline"
    if theirs == 0:
        return "baseline is zero"
    return None if math.isfinite(theirs) else f"baseline is {theirs}"


def _is_higher_better(task: str, metric: str, higher_is_better: Directions) -> bool:
    given = higher_is_better.get(task, higher_is_better)
    direction = given.get(metric) if isinstance(given, Mapping) else None
    if not isinstance(direction, bool):
        raise ValueError(
            f"Expected `higher_is_better` to have an entry for metric `{metric}` of task `{task}`, "
            "but got none."
        )
    return direction
