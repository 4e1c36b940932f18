"""The keys of a training: optimizer, schedule, when to stop."""

from typing import Annotated, Any, Literal

from pydantic import Field

from lomt.recipe.base import Fraction, NonNegative, Positive, PositiveInt, Relaxed, Settings

__all__ = ["EarlyStoppingSettings", "OptimizerSettings", "ScheduleSettings", "TrainSettings"]

Share = Annotated[float, Field(ge=0, lt=1)]


class OptimizerSettings(Settings):
    """The optimizer."""

    kind: Literal["adamw", "adam", "sgd"] = Field(default="adamw", description="Which optimizer.")
    lr: Positive = Field(description="Learning rate.")
    weight_decay: NonNegative = Field(default=0.01, description="Weight decay, decoupled with adamw.")
    momentum: Share = Field(default=0.9, description="Momentum (sgd).")
    betas: Annotated[tuple[Share, Share], Relaxed] = Field(
        default=(0.9, 0.999), description="Decay of the two moments (adamw, adam)."
    )


class ScheduleSettings(Settings):
    """How the learning rate changes."""

    kind: Literal["constant", "cosine", "one_cycle", "plateau"] = Field(
        default="constant", description="`plateau` lowers the rate when the validation loss stalls."
    )
    warmup: Share = Field(default=0.0, description="Share of all steps with a rising rate.")
    final: Fraction = Field(default=0.0, description="Share of `lr` left at the end (cosine, one_cycle).")
    factor: float = Field(default=0.1, gt=0, lt=1, description="Factor on `lr` at a plateau.")
    patience: int = Field(default=5, ge=0, description="Epochs without improvement before a plateau.")


class EarlyStoppingSettings(Settings):
    """When the validation loss no longer falls."""

    patience: PositiveInt = Field(description="Epochs without improvement before training ends.")
    min_change: NonNegative = Field(default=0.0, description="Smallest fall that counts as improvement.")


class TrainSettings(Settings):
    """One training run."""

    epochs: PositiveInt = Field(description="Passes over the training images.")
    batch_size: PositiveInt = Field(default=8, description="Images a step, over all processes.")
    accumulation_steps: PositiveInt = Field(default=1, description="Batches added up before a step.")
    precision: Literal["fp32", "bf16", "fp16"] = Field(default="fp32", description="Precision of the maths.")
    optimizer: OptimizerSettings = Field(description="The optimizer.")
    schedule: ScheduleSettings = Field(default=ScheduleSettings(), description="The learning rate's course.")
    weighting: Literal[
        "fixed", "uncertainty", "adaptive", "dwa", "gradnorm", "diminish", "switch", "alphavil", "forkmerge"
    ] = Field(
        default="fixed",
        description="`fixed`: the tasks' own weights. `uncertainty`: one learned scale a task. `adaptive`: by how much "
        "each task's loss still moves. `dwa`: by how fast "
        "losses fall. `gradnorm`: like lengths of gradients. For one `target`: `diminish` and `switch` (MT2ST), "
        "`alphavil`, `forkmerge`.",
    )
    weighting_options: dict[str, Any] = Field(
        default={}, description="Keyword arguments of the weighting, such as {share: 0.5} for `switch`."
    )
    aggregation: (
        Literal[
            "pcgrad",
            "weighted_pcgrad",
            "primary_pcgrad",
            "bayesagg",
            "mgda",
            "cagrad",
            "imtl_g",
            "aligned_mtl",
            "config",
            "graddrop",
            "upgrad",
        ]
        | None
    ) = Field(
        default=None,
        description="How the tasks' gradients in the shared weights become one; null adds them up. One backward pass "
        "a task; `bayesagg` weighs them in the features that linear decoders share, and takes one in all.",
    )
    aggregation_options: dict[str, Any] = Field(
        default={}, description="Keyword arguments of the aggregation, such as {probabilities: {depth: 4.0}}."
    )
    gradient_clip: Positive | None = Field(
        default=None, description="Largest norm of the gradient; null leaves it alone."
    )
    early_stopping: EarlyStoppingSettings | None = Field(
        default=None, description="End when validation stalls; null trains all epochs."
    )
    keep: Literal["last", "best"] = Field(
        default="last", description="Weights of the last epoch, or of the best one on validation data."
    )
    checkpoint_s: Positive = Field(default=60.0, description="Seconds between checkpoints.")
    tensorboard: bool = Field(default=False, description="Write TensorBoard files.")
