"""The keys of `lomt add`: how a task is added to a network that keeps its others as they are."""

from pydantic import Field

from lomt.recipe.base import NonNegative, Settings
from lomt.recipe.train_settings import TrainSettings

__all__ = ["AddSettings"]


class AddSettings(Settings):
    """One more task for a trained network, by task adaptive parameter sharing (TAPS)."""

    task: str | None = Field(
        default=None, description="The new task; null takes the one that the command line names."
    )
    branch_point: str | None = Field(
        default=None,
        description="Layer of the network's backbone that the new decoder reads; null for the deepest one that a task "
        "of the network reads.",
    )
    penalty: NonNegative = Field(
        default=1.0, description="Factor of the mean absolute score; more of it leaves more layers shared."
    )
    threshold: NonNegative = Field(
        default=0.1,
        description="A layer whose score reaches it is changed for the task, all others are shared.",
    )
    initial_score: NonNegative = Field(default=0.15, description="Where the layers' scores start.")
    warmup_epochs: int = Field(default=2, ge=0, description="Epochs before the penalty counts.")
    train: TrainSettings = Field(description="What differs from `train`; only the new task's loss counts.")
