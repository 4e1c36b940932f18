r"""Tasks by how they are learned sample by sample (STG-MTL).

A task's data map holds, for every training sample, the mean and the standard deviation over epochs of the probability
that the network gives to the true class. Tasks with like maps find the same samples easy, hard and ambiguous. The
flattened maps are clustered by k-means, and a task's distances from the centres say how much it belongs to each group.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from lomt.errors import ScoreError
from lomt.grouping.k_means import k_means
from lomt.grouping.membership import Membership, fuzzy_membership
from lomt.tasks import Task

__all__ = ["MAPPED_KINDS", "group_data_maps", "require_true_classes", "true_class_probability"]

MAPPED_KINDS = ("classification", "multilabel", "segmentation", "edges")
"""Kinds whose targets are classes, so that there is a probability of the true one."""


def require_true_classes(tasks: Mapping[str, Task]) -> None:
    """Check that every task has classes.

    Raises:
        ScoreError: If one has not.
    """
    for name, task in tasks.items():
        if task.kind not in MAPPED_KINDS:
            raise ScoreError(
                f"Expected task `{name}` to be of kind {', '.join(MAPPED_KINDS)}, because data maps are made of the "
                f"probability of the true class, but it is of kind {task.kind}. Leave the task out, or choose another "
                "`group.method`."
            )


def true_class_probability(task: Task, prediction: Tensor, target: Tensor) -> Float[Tensor, " samples"]:
    r"""Return the probability that each sample's true class gets, NaN for a sample without any label.

    The softmax's entry of the true class; for labels that are there or not :math:`p` or :math:`1 - p`. Where a sample
    has several labels, those of an image's attributes or, beyond the paper, of its pixels, their mean over the
    labelled ones.

    Args:
        task: Of one of `MAPPED_KINDS`.
        prediction: Raw output, (samples, channels) or (samples, channels, height, width).
        target: In the kind's shape.
    """
    layout = task.loss.layout
    is_valid = layout.find_valid(target)
    if layout.facts.holds_labels:
        labels = target.long().clamp_min(0).unsqueeze(1)
        chances = prediction.softmax(1).gather(1, labels).squeeze(1)
    else:
        positive = prediction.sigmoid()
        chances = positive * target + (1 - positive) * (1 - target)
    rows = torch.where(is_valid, chances, 0.0).reshape(len(target), -1).sum(1)
    return rows / is_valid.reshape(len(target), -1).sum(1)  # 0 / 0 is NaN


def group_data_maps(
    tasks: tuple[str, ...],
    mean: Float64[Tensor, "tasks samples"],
    deviation: Float64[Tensor, "tasks samples"],
    groups: int,
    *,
    fuzziness: float = 1.07,
    seed: int = 0,
) -> Membership:
    """Cluster tasks by their data maps; samples that lack a label of some task are left out of all maps.

    Args:
        tasks: Names.
        mean: Over epochs, of the probability of the true class; NaN for a sample without label.
        deviation: Over epochs, likewise.
        groups: How many.
        fuzziness: Of the memberships; published as 1.07.
        seed: Of k-means.

    Raises:
        ScoreError: If no sample has labels of all tasks.
        ValueError: If ``groups`` does not fit the tasks, or ``fuzziness`` is not above 1.

    References:
        Sherif, Abid, Elattar and ElHelw, "STG-MTL: Scalable Task Grouping for Multi-Task Learning Using Data Map",
        2023, https://arxiv.org/abs/2307.03374.
    """
    if not 1 <= groups <= len(tasks):
        raise ValueError(
            f"Expected `groups` to be from 1 to {len(tasks)}, the number of tasks, but got {groups}."
        )
    is_whole = ~mean.isnan().any(0)
    if not bool(is_whole.any()):
        labelled = (~mean.isnan()).sum(1)
        fewest = int(labelled.argmin())
        raise ScoreError(
            f"Expected some samples to have labels of all tasks, because data maps are compared on them, but of "
            f"{mean.shape[1]} none has; task `{tasks[fewest]}` has the fewest, {int(labelled[fewest])}. Raise "
            "`group.samples`, or leave the task out."
        )
    maps = torch.cat([mean[:, is_whole], deviation[:, is_whole]], dim=1)
    _, centres = k_means(maps, groups, seed)
    facts = {
        "samples": int(is_whole.sum()),
        "samples_without_all_labels": int((~is_whole).sum()),
        "fuzziness": fuzziness,
    }
    return Membership(tasks, fuzzy_membership(maps, centres, fuzziness), "data_maps", facts)
