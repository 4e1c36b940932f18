"""The settings of one training run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from lomt.errors import UnknownNameError

__all__ = ["OPTIMIZERS", "OptimizerOptions", "ScheduleOptions", "TrainingOptions"]

OPTIMIZERS: Mapping[str, Callable[..., Optimizer]] = {"adamw": AdamW, "adam": Adam, "sgd": SGD}


@dataclass(frozen=True)
class OptimizerOptions:
    """Which optimizer, and how it steps.

    Args:
        kind: A key of `OPTIMIZERS`.
        lr: Base learning rate.
        weight_decay: For weights of two dimensions or more; norms and biases are not decayed.
        momentum: Of SGD.
        betas: Of Adam and AdamW.
        backbone_lr: Learning rate of the model's ``backbone``, as a share of ``lr``.
    """

    kind: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.01
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    backbone_lr: float = 1.0

    def build(self, model: nn.Module, extra: list[nn.Parameter]) -> Optimizer:
        """Return the optimizer of a model's trainable parameters and of the weighting's.

        Raises:
            UnknownNameError: If there is no optimizer of that kind.
        """
        if self.kind not in OPTIMIZERS:
            raise UnknownNameError("optimizer", self.kind, OPTIMIZERS)
        parameters = [p for p in model.parameters() if p.requires_grad]
        slow = set[nn.Parameter]()
        if self.backbone_lr != 1:
            slow.update(model.get_submodule("backbone").parameters())
        groups = self._groups([p for p in parameters if p not in slow], extra, self.lr)
        groups += self._groups([p for p in parameters if p in slow], [], self.backbone_lr * self.lr)
        if self.kind == "sgd":
            return SGD(groups, lr=self.lr, momentum=self.momentum)
        fused = parameters[0].device.type == "cuda" if parameters else False
        return OPTIMIZERS[self.kind](groups, lr=self.lr, betas=self.betas, fused=fused or None)

    def _groups(
        self, parameters: list[nn.Parameter], extra: list[nn.Parameter], lr: float
    ) -> list[dict[str, Any]]:
        groups: list[dict[str, Any]] = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": self.weight_decay, "lr": lr},
            {"params": [p for p in parameters if p.ndim <= 1] + extra, "weight_decay": 0.0, "lr": lr},
        ]
        return [group for group in groups if group["params"]]


@dataclass(frozen=True)
class ScheduleOptions:
    """How the learning rate moves; see `lomt.training.schedules`.

    Args:
        kind: A key of `SCHEDULES`.
        warmup: Share of the steps with a rising rate.
        final: Share of the base rate left at the end.
        factor: Of the plateau rule.
        patience: Epochs, of the plateau rule.
    """

    kind: str = "cosine"
    warmup: float = 0.0
    final: float = 0.0
    factor: float = 0.1
    patience: int = 5


@dataclass(frozen=True)
class TrainingOptions:
    """Everything that decides how a model is trained, apart from model, data and tasks.

    Args:
        epochs: Passes over the training set.
        accumulation_steps: Batches per optimizer step.
        precision: Of the forward pass; weights stay float32.
        weighting: A key of `lomt.training.weighting.WEIGHTINGS`.
        weighting_options: Further arguments of the method.
        aggregation: One of `lomt.training.aggregation.AGGREGATIONS`; None adds the tasks' gradients up.
        aggregation_options: Further arguments of the aggregator.
        target: The task that counts in the end, if there is one: the validation loss is its own then.
        gradient_clip: Largest norm of all gradients together.
        early_stopping: Epochs without a better validation loss after which training ends.
        min_change: A smaller fall of the validation loss is not better.
        keep: Whether the last weights or those with the best validation loss are the result.
        checkpoint_s: Seconds between checkpoints within an epoch.
        seed: Of dropout and the like.
    """

    epochs: int
    accumulation_steps: int = 1
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    optimizer: OptimizerOptions = field(default_factory=OptimizerOptions)
    schedule: ScheduleOptions = field(default_factory=ScheduleOptions)
    weighting: str = "fixed"
    weighting_options: Mapping[str, Any] = field(default_factory=dict)
    aggregation: str | None = None
    aggregation_options: Mapping[str, Any] = field(default_factory=dict)
    target: str | None = None
    gradient_clip: float | None = None
    early_stopping: int | None = None
    min_change: float = 0.0
    keep: Literal["last", "best"] = "last"
    checkpoint_s: float = 60.0
    tensorboard: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "accumulation_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"Expected `{name}` to be at least 1, but got {getattr(self, name)}.")
        if self.precision == "fp16" and not torch.cuda.is_available():
            raise ValueError("Expected `precision` to be fp32 or bf16 on CPU, but got fp16. Use bf16.")
        if self.precision == "fp16" and self.aggregation is not None:
            raise ValueError(
                "Expected `precision` to be fp32 or bf16 with `aggregation`, but got fp16. Use bf16."
            )
