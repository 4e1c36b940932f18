r"""Training losses as a sum and a count.

A loss is called for the **sum** over the labelled entries of a batch, and counts separately what that sum is
to be divided by. Both are additive over images, so

.. math:: \bar L = \frac{\sum_b \mathrm{sum}_b}{\max(1, \sum_b \mathrm{count}_b)}

is the same whether the :math:`b` are micro-batches, processes or one large batch. Ignored entries change
neither the sum nor its gradient.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from lomt.tasks.layout import TensorLayout

__all__ = [
    "LOSSES",
    "AbsoluteError",
    "BalancedBinaryCrossEntropy",
    "BinaryCrossEntropy",
    "CosineDistance",
    "CrossEntropy",
    "HuberError",
    "Loss",
    "SquaredError",
]

# Bounds the gradient of the angle where a decoder emits (nearly) no vector at all.
_SHORTEST_VECTOR = 1e-3


@dataclass(frozen=True)
class Loss(ABC):
    """The map from a prediction and a target to a sum over the labelled entries.

    Args:
        layout: Shapes and value ranges of the task's tensors.
    """

    layout: TensorLayout

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Sum the loss over the labelled entries of a batch.

        Computed in float32 or wider whatever the prediction's dtype. On an accelerator, labels out of range
        make the sum NaN instead of raising, so that training never waits for the device; ``layout.check``
        then says what is wrong.

        Args:
            prediction: Raw output, (batch, channels) or (batch, channels, height, width).
            target: Target in the kind's shape (see :mod:`lomt.tasks.layout`).

        Returns:
            Scalar; divide by ``max(count(target), 1)`` for the mean.

        Raises:
            ValueError: A shape does not fit, or a label is out of range.
            TypeError: A dtype does not fit.
        """
        self.layout.check_form(prediction, target)
        is_on_host = target.device.type == "cpu"
        if is_on_host:
            self.layout.check_values(target)
        if prediction.dtype in (torch.float16, torch.bfloat16):
            prediction = prediction.float()
        total = self._sum(prediction, target, self.layout.find_valid(target))
        return total if is_on_host else total.masked_fill(self.layout.is_out_of_range(target), torch.nan)

    def count(self, target: Tensor) -> Tensor:
        """Count what the sum is to be divided by: the labelled entries.

        Args:
            target: Target in the kind's shape.

        Returns:
            Float32 scalar on the target's device.
        """
        return self.layout.find_valid(target).sum().float()

    @abstractmethod
    def _sum(self, prediction: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """Sum over the entries where ``valid``; the arguments have been checked."""


@dataclass(frozen=True)
class CrossEntropy(Loss):
    r"""Cross entropy of class logits, with optional label smoothing.

    .. math:: -(1 - \epsilon) \log p_y - \frac{\epsilon}{C} \sum_c \log p_c

    Args:
        layout: Shapes and value ranges of the task's tensors.
        label_smoothing: :math:`\epsilon`, at least 0 and below 1.
    """

    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(
                f"Expected `label_smoothing` of task `{self.layout.task}` to be at least 0 and below 1, "
                f"but got {self.label_smoothing}."
            )

    def _sum(self, prediction: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        # Not F.cross_entropy: its two-dimensional CUDA kernel is refused under deterministic algorithms.
        log_p = F.log_softmax(prediction, dim=1)
        labels = target.long().clamp(0, self.layout.channels - 1)
        losses = -log_p.gather(1, labels.unsqueeze(1)).squeeze(1)
        if self.label_smoothing:
            losses = (1 - self.label_smoothing) * losses - self.label_smoothing * log_p.mean(dim=1)
        return torch.where(valid, losses, 0).sum()


@dataclass(frozen=True)
class _DifferenceLoss(Loss):
    """The map from the difference between prediction and target to a penalty, entry by entry."""

    def _sum(self, prediction: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        # Chosen before any arithmetic that could turn an ignored NaN into a NaN gradient.
        difference = torch.where(valid, self.layout.activate(prediction) - target, 0)
        return self._penalise(difference).sum()

    @abstractmethod
    def _penalise(self, difference: Tensor) -> Tensor:
        """Penalise each difference; none at zero."""


@dataclass(frozen=True)
class AbsoluteError(_DifferenceLoss):
    """Absolute difference, of sigmoids where predictions are logits."""

    def _penalise(self, difference: Tensor) -> Tensor:
        return difference.abs()


@dataclass(frozen=True)
class SquaredError(_DifferenceLoss):
    """Squared difference, of sigmoids where predictions are logits."""

    def _penalise(self, difference: Tensor) -> Tensor:
        return difference.square()


@dataclass(frozen=True)
class HuberError(_DifferenceLoss):
    r"""Huber's function of the difference, of sigmoids where predictions are logits.

    .. math:: \tfrac12 d^2 \text{ if } |d| \le \delta, \quad \delta (|d| - \tfrac12 \delta) \text{ otherwise}

    Args:
        layout: Shapes and value ranges of the task's tensors.
        delta: :math:`\delta > 0`, in the unit of the targets.

    References:
        Robust estimation of a location parameter, Huber, 1964, https://doi.org/10.1214/aoms/1177703732.
    """

    delta: float = 1.0

    def __post_init__(self) -> None:
        if not self.delta > 0:
            raise ValueError(
                f"Expected `delta` of task `{self.layout.task}` to be above 0, but got {self.delta}."
            )

    def _penalise(self, difference: Tensor) -> Tensor:
        zero = torch.zeros_like(difference)
        return F.huber_loss(difference, zero, reduction="none", delta=self.delta)


@dataclass(frozen=True)
class CosineDistance(Loss):
    r"""One minus the cosine of the angle between predicted and target vectors.

    .. math:: 1 - \frac{p \cdot t}{\sqrt{\lVert p \rVert^2 \lVert t \rVert^2 + \varepsilon^2}}

    Neither needs unit length. :math:`\varepsilon = 10^{-3}` bounds the gradient where :math:`p` vanishes.
    """

    def _sum(self, prediction: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        squared_lengths = prediction.square().sum(1, keepdim=True) * target.square().sum(1, keepdim=True)
        cosine = (prediction * target).sum(1, keepdim=True) * (squared_lengths + _SHORTEST_VECTOR**2).rsqrt()
        return torch.where(valid, 1 - cosine, 0).sum()


@dataclass(frozen=True)
class BinaryCrossEntropy(Loss):
    """Binary cross entropy of logits, every labelled entry alike."""

    def _sum(self, prediction: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        losses = F.binary_cross_entropy_with_logits(prediction, target.clamp_min(0), reduction="none")
        return torch.where(valid, losses, 0).sum()


@dataclass(frozen=True)
class BalancedBinaryCrossEntropy(Loss):
    r"""Binary cross entropy in which the two classes of every image pull alike.

    .. math:: -\sum_i \sum_{j} \beta_i \, t_{ij} \log p_{ij} + (1 - \beta_i)(1 - t_{ij}) \log(1 - p_{ij})

    where :math:`\beta_i` is the share of negatives among the labelled pixels of image :math:`i`. The count is
    the sum of these weights, so that the mean is :math:`\log 2` for an undecided prediction whatever the
    share of positives. An image of one class alone weighs nothing.

    References:
        Holistically-nested edge detection, Xie and Tu, 2015, https://arxiv.org/abs/1504.06375, equation 2.
    """

    def count(self, target: Tensor) -> Tensor:
        """Sum the weights of the labelled entries.

        Args:
            target: 0 or 1, negative where ignored; (batch, 1, height, width).

        Returns:
            Float32 scalar on the target's device.
        """
        return self._weights(target.float(), self.layout.find_valid(target)).sum()

    def _sum(self, prediction: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        losses = F.binary_cross_entropy_with_logits(prediction, target.clamp_min(0), reduction="none")
        return (torch.where(valid, losses, 0) * self._weights(target, valid)).sum()

    def _weights(self, target: Tensor, valid: Tensor) -> Tensor:
        positive = torch.where(valid, target, 0)
        axes = tuple(range(1, target.ndim))
        count = valid.sum(axes, keepdim=True).clamp_min(1)
        share = positive.sum(axes, keepdim=True) / count
        weights = positive * (1 - share) + (1 - positive) * share
        return torch.where(valid, weights, 0)


LossFactory = Callable[..., Loss]

# The first loss of a kind is its default. The edge loss of the LOMT paper's code is Huber's with delta 0.3.
LOSSES: Mapping[str, Mapping[str, LossFactory]] = {
    "segmentation": {"cross_entropy": CrossEntropy},
    "depth": {"l1": AbsoluteError, "mse": SquaredError, "huber": HuberError},
    "normals": {"cosine": CosineDistance},
    "edges": {"balanced_bce": BalancedBinaryCrossEntropy, "huber": partial(HuberError, delta=0.3)},
    "keypoints": {"mse": SquaredError, "bce": BinaryCrossEntropy, "l1": AbsoluteError},
    "classification": {"cross_entropy": CrossEntropy},
    "multilabel": {"bce": BinaryCrossEntropy},
    "regression": {"l1": AbsoluteError, "mse": SquaredError, "huber": HuberError},
}
