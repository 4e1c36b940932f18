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
    backbone_lr: NonNegative = Field(
        default=0.03,
        description="Learning rate of the backbone, as a share of the others': at 1 its last layers are made over for "
        "whoever reads them; 0 leaves it as it is, at about half of the cost.",
    )
    lr: Positive = Field(default=1e-3, description="Learning rate, in place of `locate.train`'s.")
    lambda_start: Positive = Field(
        default=3e-4,
        description="Strength at the first step, in units of the gradient of losses that start at 1; it rises by the "
        "same factor every step.",
    )
    lambda_stop: Positive = Field(default=3e-2, description="Strength at the last step.")
    start_norm: Positive = Field(
        default=0.05,
        description="Size of the projections' entries at the start, times the layer's cost factor.",
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
    rule: Literal["deepest_survivor", "longest_survivor"] = Field(
        default="deepest_survivor", description="How the branch point follows from the order of death."
    )
    point: Fraction = Field(
        default=0.75,
        description="Share of the path past which a layer has to be read to count (rule `deepest_survivor`).",
    )
