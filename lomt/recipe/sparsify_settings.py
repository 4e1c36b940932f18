"""The keys of the sparsify stage: by which method, how much, and how long."""

from typing import Annotated, Literal

from pydantic import Field

from lomt.recipe.base import Fraction, NonNegative, PositiveInt, Settings
from lomt.recipe.train_settings import TrainSettings

__all__ = ["LEARNED_METHODS", "SparsifySettings", "SparsifyTarget"]

LEARNED_METHODS = ("thresholds", "group_lasso", "both")
"""Methods that learn what goes while they train; the others decide at once, or round by round."""

Gone = Annotated[float, Field(ge=0, lt=1)]


class SparsifyTarget(Settings):
    """How much goes; just one of the keys is given."""

    removable: Gone | None = Field(
        default=None, description="Share of the channels that can go exactly (granularity structured)."
    )
    params: Gone | None = Field(
        default=None,
        description="Share of the parameters; with granularity unstructured, of the convolutions' weights.",
    )
    macs: Gone | None = Field(
        default=None, description="Share of the multiply-accumulates (granularity structured)."
    )


class SparsifySettings(Settings):
    """Zeros up to a target, exact removal of what they make needless, and healing."""

    method: Literal[
        "thresholds",
        "group_lasso",
        "both",
        "global_magnitude",
        "imp",
        "lth",
        "snip",
        "disparse_static",
        "disparse_pretrained",
    ] = Field(
        default="both",
        description="`thresholds`, `group_lasso` or `both` are learned in training; the others are the published "
        "baselines.",
    )
    granularity: Literal["structured", "unstructured"] = Field(
        default="structured",
        description="Whole coupled channels, which can be removed, or single weights, as most papers have it.",
    )
    network: Literal["rewired", "dense"] = Field(
        default="rewired", description="Network that is made sparse; its stage has to have run."
    )
    target: SparsifyTarget = Field(description="How much goes.")
    components: list[str] | None = Field(
        default=None,
        min_length=1,
        description="Parts that may become sparse: `backbone` and tasks by name; null for all.",
    )
    ramp_epochs: PositiveInt | None = Field(
        default=None,
        description="Of `train.epochs`, those in which sparsity rises to the target (learned methods) or which the "
        "rounds share (imp); the others heal. null: half of them.",
    )
    logits: Literal["component", "stage", "layer"] = Field(
        default="component",
        description="One threshold for each part of the network, resolution stage or layer (thresholds, both).",
    )
    initial_logit: float | None = Field(
        default=None,
        description="Where free-running thresholds start (thresholds, unstructured): -30.5 in the published code; "
        "null: where they change next to nothing.",
    )
    metric: Literal["adam", "euclidean"] = Field(
        default="euclidean", description="Metric of the proximal step (group_lasso, both)."
    )
    branch_weight: NonNegative = Field(
        default=0.0,
        description="Weight of whole residual branches as groups, beside their channels (group_lasso, both; metric "
        "euclidean).",
    )
    rounds: PositiveInt = Field(default=3, description="Rounds of cutting and training (imp).")
    start: Literal["published", "trained"] = Field(
        default="published",
        description="Weights on which baselines decide and go on from: as published, which is from scratch for imp, "
        "lth, snip and disparse_static, or always the trained ones.",
    )
    loss_batches: PositiveInt = Field(
        default=8, description="Training batches whose gradients are read (snip, disparse_static)."
    )
    divisor: PositiveInt = Field(default=1, description="Widths are multiples of it (baselines, structured).")
    minimum: Fraction = Field(
        default=0.0, description="Least share of each layer's channels that stays (baselines, structured)."
    )
    recalibrate_batches: int = Field(
        default=16,
        ge=0,
        description="Training batches that renew batch norm statistics once weights are zero (baselines); 0 for none.",
    )
    train: TrainSettings = Field(
        description="What differs from `train`; `epochs` are those of rising sparsity and healing together."
    )
