"""The keys of the one-run locate: every task reads every layer, and loses them as lambda rises."""

from typing import Literal

from pydantic import Field

from lomt.recipe.base import Fraction, NonNegative, Positive, PositiveInt, Settings

__all__ = ["JointSettings"]


class JointSettings(Settings):
    """One multitask run with a feature-selection layer (`locate.method: joint`)."""

    epochs: PositiveInt = Field(
        default=7, description="Epochs of the whole run, in place of `locate.train`'s."
    )
    lr: Positive | None = Field(default=None, description="Learning rate; null takes `locate.train`'s.")
    lambda_start: Positive = Field(
        default=1 / 32,
        description="Strength in the first epoch, in units of the learning rate: with Adam nothing withstands one half "
        "of a layer's largest cost.",
    )
    growth: float = Field(default=2.0, ge=1, description="Factor on lambda from epoch to epoch.")
    start_norm: float = Field(
        default=0.05,
        gt=0,
        lt=1,
        description="Size of all projections at the start, as the share of the run's whole shrinkage that takes one "
        "without gradients to zero.",
    )
    cost: Literal["macs", "milliseconds"] = Field(
        default="macs",
        description="What makes a deep layer dear: multiply-accumulates up to it, or the time measured here.",
    )
    cost_exponent: NonNegative = Field(
        default=0.5, description="Power of the cost share in the penalty; 0 makes all layers equally dear."
    )
    width: PositiveInt = Field(default=32, description="Channels of each task's sum of projections.")
    stride: PositiveInt | None = Field(
        default=None,
        description="Image pixels per pixel of the sums; null takes that of the deepest layer, at most 8.",
    )
    rule: Literal["longest_survivor", "deepest_active"] = Field(
        default="longest_survivor", description="How the branch point follows from the order of death."
    )
    point: Fraction = Field(
        default=0.75,
        description="Share of the path past which a layer has to be read to be active (rule `deepest_active`).",
    )
