"""The keys of the prune stage: how much goes, which channels, and what follows the cut."""

from typing import Annotated, Literal

from pydantic import Field

from lomt.recipe.base import Fraction, NonNegative, Positive, PositiveInt, Settings
from lomt.recipe.train_settings import TrainSettings

__all__ = ["BUDGETS", "DistillSettings", "PruneSettings"]

BUDGETS = ("channels", "params", "macs", "latency_ms")
"""Keys of which just one is given."""

Budget = Annotated[float, Field(gt=0, le=1)]


class DistillSettings(Settings):
    """An earlier network of the run as a teacher, beside the labels."""

    weight: Positive = Field(
        default=1.0, description="Factor of the distillation beside each task's own loss."
    )
    weights: dict[str, NonNegative] = Field(
        default={}, description="Factor by task, where it differs; 0 leaves the task to its labels."
    )
    temperature: Positive = Field(
        default=2.0,
        description="Softens class probabilities (segmentation, classification, multilabel, edges).",
    )


class PruneSettings(Settings):
    """Fewer channels, down to a budget, in one or more rounds of cutting and training."""

    target: Literal["rewired", "dense", "sparse"] = Field(
        default="rewired", description="Network that is cut; its stage has to have run."
    )
    channels: Budget | None = Field(default=None, description="Largest share of prunable channels to keep.")
    params: Budget | None = Field(default=None, description="Largest share of parameters to keep.")
    macs: Budget | None = Field(default=None, description="Largest share of multiply-accumulates to keep.")
    latency_ms: Positive | None = Field(
        default=None,
        description="Longest median time of one image in onnxruntime on the processor of the machine that cuts, in "
        "milliseconds.",
    )
    threads: PositiveInt = Field(
        default=1, description="Threads of onnxruntime where `latency_ms` is measured."
    )
    importance: Literal[
        "magnitude", "batchnorm", "taylor", "random", "task_union", "task_share", "task_weighted"
    ] = Field(
        default="task_weighted",
        description="Which channels matter; `taylor` and the `task_` ones read gradients of the tasks' losses.",
    )
    loss_batches: PositiveInt = Field(
        default=8, description="Training batches whose gradients the importance reads."
    )
    divisor: PositiveInt | None = Field(
        default=None, description="Widths after the cut are multiples of it; null for multiples of 16, and 8."
    )
    ranking: Literal["global", "component", "layer"] = Field(
        default="global",
        description="Channels compete in the whole network, within the shared part and each decoder, or within "
        "each layer.",
    )
    minimum: Fraction = Field(
        default=0.1, description="Least share of each layer's channels that a round leaves."
    )
    protect: list[str] = Field(
        default=[], description="Layers, by dotted path or pattern, whose own channels stay."
    )
    rounds: PositiveInt = Field(
        default=1,
        description="Rounds of cutting and training; each keeps the same share of what it finds, or of its time.",
    )
    recalibrate_batches: int = Field(
        default=16,
        ge=0,
        description="Training batches that renew batch norm statistics after a cut; 0 for none.",
    )
    distill: DistillSettings | None = Field(
        default=None,
        description="Learn from the network before the cut as well; null for labels alone or, with `data.targets: "
        "original` and without aggregation bayesagg, for weight 1.",
    )
    pruned_only: bool = Field(
        default=True,
        description="Cut and train the dense network as well, down to what is left of the target: the comparison that "
        "shows what the located layers gain. Costs another training; means nothing where the target is `dense`.",
    )
    train: TrainSettings = Field(description="What differs from `train`; `epochs` are those of one round.")

    @property
    def has_pruned_only(self) -> bool:
        """Whether the dense network is cut beside the target."""
        return self.pruned_only and self.target != "dense"
