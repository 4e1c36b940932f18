"""What a head should say before it has learned anything: the best prediction that does not look at the image."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from lomt.tasks.task import Task

__all__ = ["best_constant"]


def best_constant(task: Task, targets: Iterable[Tensor]) -> Float[Tensor, " out_channels"]:
    """Return the constant raw prediction from which a task's training should start.

    As the bias of a head it saves the steps in which a network would learn the mean depth of rooms before it learns
    depth. Classes get the logarithm of their frequency; depth, normals and regression values their mean; the balanced
    losses of the other kinds are at their best constant at 0.

    Args:
        task: Whose head.
        targets: Batches of targets, entries without label included.

    References:
        Lin et al., "Focal Loss for Dense Object Detection", 2017, https://arxiv.org/abs/1708.02002, section 3.3,
        which starts a detector's head at the frequency of objects.
    """
    facts, layout = task.metrics.layout.facts, task.metrics.layout
    if facts.holds_labels:
        counts = torch.ones(task.out_channels, dtype=torch.float64)
        for target in targets:
            counts += torch.bincount(target[layout.find_valid(target)], minlength=task.out_channels)
        return (counts / counts.sum()).log().float()
    sums = torch.zeros(task.out_channels, dtype=torch.float64)
    if task.kind not in ("depth", "normals", "regression"):
        return sums.float()
    counts = torch.zeros(task.out_channels, dtype=torch.float64)
    for target in targets:
        valid = layout.find_valid(target).expand_as(target)
        others = [axis for axis in range(target.ndim) if axis != 1]
        sums += torch.where(valid, target, 0.0).double().sum(others)
        counts += valid.double().sum(others)
    return (sums / counts.clamp(min=1.0)).float()
