r"""What a task's network says of one sample in one number, whose gradient the linear model uses.

The number comes with a **link** that turns it into the sample's loss:

- ``"logistic"``: a margin :math:`m`, with :math:`\ell = \log(1 + e^{-m})`. For classes
  :math:`m = \log(p_y / (1 - p_y))`, so
  that :math:`\ell` is the cross entropy; for a single yes-or-no label the signed logit.
- ``"quadratic"``: a residual :math:`r = \sqrt{2 \ell}`, with :math:`\ell = r^2 / 2`, of any other per-sample loss.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from lomt.tasks import Task

__all__ = ["Link", "SampleScores", "link_of", "losses_of", "sample_scores"]

Link = Literal["logistic", "quadratic"]

_SMALLEST_LOSS = 1e-6  # bounds the gradient of the square root where a sample is fitted perfectly


@dataclass(frozen=True)
class SampleScores:
    """One number a sample.

    Args:
        values: Margins or residuals, with their graph.
        is_valid: Whether the sample has a label at all.
    """

    values: Float[Tensor, " samples"]
    is_valid: Bool[Tensor, " samples"]


def link_of(task: Task) -> Link:
    """Return how a task's number becomes a loss."""
    is_binary = task.kind == "multilabel" and task.out_channels == 1
    return "logistic" if task.kind == "classification" or is_binary else "quadratic"


def losses_of(values: Tensor, link: Link) -> Tensor:
    """Turn margins or residuals into losses, entry by entry."""
    return F.softplus(-values) if link == "logistic" else values.square() / 2


def sample_scores(task: Task, prediction: Tensor, target: Tensor) -> SampleScores:
    """Return every sample's number.

    Args:
        task: Whose prediction it is.
        prediction: Raw output, (samples, channels) or (samples, channels, height, width).
        target: In the kind's shape.
    """
    if task.kind == "classification":
        labels = target.long().clamp_min(0)[:, None]
        log_p = F.log_softmax(prediction, dim=1)
        chosen = log_p.gather(1, labels)[:, 0]
        others = log_p.scatter(1, labels, -torch.inf).logsumexp(1)
        return SampleScores(chosen - others, target >= 0)
    if link_of(task) == "logistic":
        signs = torch.where(target > 0.5, 1.0, -1.0)
        return SampleScores((prediction * signs)[:, 0], target[:, 0] >= 0)
    sums, counts = [], []
    for index in range(len(target)):
        one = slice(index, index + 1)
        sums.append(task.loss(prediction[one], target[one]))
        counts.append(task.loss.count(target[one]))
    count = torch.stack(counts)
    losses = torch.stack(sums) / count.clamp_min(1e-12)
    return SampleScores((2 * losses.clamp_min(_SMALLEST_LOSS)).sqrt(), count > 0)
