"""The keys of the locate stage: sparse training, and the rule that reads it."""

from typing import Literal

from pydantic import Field

from lomt.recipe.base import Fraction, NonNegative, Positive, PositiveInt, Settings
from lomt.recipe.joint_settings import JointSettings
from lomt.recipe.train_settings import TrainSettings

__all__ = ["LambdaSettings", "LocateSettings", "StopSettings"]

Rule = Literal[
    "before_first_dead_run", "deepest_active", "last_active_bypassable", "density_threshold", "steepest_fall"
]


class LambdaSettings(Settings):
    """The path of lambdas, log-spaced, each run starting where the one before ended."""

    start: Positive = Field(default=1e-4, description="First lambda.")
    stop: Positive = Field(default=1e-3, description="Last lambda.")
    count: PositiveInt = Field(default=10, description="How many lambdas, both ends included.")


class StopSettings(Settings):
    """When a sparse run ends before its last epoch."""

    sparsity: Fraction = Field(default=0.8, description="Share of zero channel groups that is enough.")
    stalled_change: Fraction = Field(
        default=0.001, description="Change of sparsity in an epoch below which it counts as stalled."
    )
    stalled_patience: PositiveInt = Field(default=30, description="Stalled epochs in a row before the end.")
    loss_tolerance: NonNegative | None = Field(
        default=None, description="Relative rise of the validation loss that ends the run; null for none."
    )


class LocateSettings(Settings):
    """Which backbone layer each task needs: sparse training and a rule."""

    method: Literal["single_task", "joint"] = Field(
        default="single_task",
        description="`single_task`: each task alone, group lasso on the backbone (LOMT). `joint`: one run of all "
        "tasks, each reading every layer; settings in `locate.joint`.",
    )
    start: Literal["dense", "initial"] = Field(default="dense", description="Weights each run starts from.")
    seeds: PositiveInt = Field(
        default=1, description="Runs, each with its own seed; of every task by itself with single_task."
    )
    lambdas: LambdaSettings = Field(default=LambdaSettings(), description="Strength of the group lasso.")
    normalise_loss: bool = Field(
        default=True,
        description="Divide each task's loss by its value at the start, so that one lambda means the same for "
        "all tasks; the papers do not. With `data.targets: original` the loss of the best constant answer stands for "
        "it.",
    )
    metric: Literal["adam", "euclidean"] = Field(
        default="adam", description="Metric of the proximal step; `adam` is the optimizer's own."
    )
    activity: Fraction = Field(
        default=0.01, description="A layer is active when more than this share of its groups survives."
    )
    rule: Rule = Field(
        default="before_first_dead_run", description="How the branch point follows from the active layers."
    )
    finer_epochs: int = Field(
        default=0,
        ge=0,
        description="Epochs for which a task is trained alone at the layer found and at the last block of each finer "
        "resolution before it; the least loss wins. 0 leaves it at the layer found.",
    )
    granularity: Literal["block", "conv"] = Field(
        default="block", description="Branch points at block outputs or at raw convolution outputs (paper)."
    )
    stop: StopSettings = Field(default=StopSettings(), description="When a run ends early.")
    joint: JointSettings = Field(default=JointSettings(), description="The one run of method `joint`.")
    train: TrainSettings = Field(
        description="What differs from `train`; `epochs` are those for one lambda.",
    )
