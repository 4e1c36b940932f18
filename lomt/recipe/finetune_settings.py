"""The keys of the finetune stage: how much of the network goes on for the target."""

from typing import Literal

from pydantic import Field

from lomt.recipe.base import Fraction, PositiveInt, Settings
from lomt.recipe.train_settings import TrainSettings

__all__ = ["FinetuneSettings"]


class FinetuneSettings(Settings):
    """One task trained alone, in the parts that matter to it; all else stays as it is, bit for bit."""

    target: str | None = Field(
        default=None, description="The task to go on for; null takes the recipe's `target`."
    )
    network: Literal["dense", "rewired", "sparse", "pruned"] | None = Field(
        default=None,
        description="Network that goes on; its stage has to have run. null takes the last one that the recipe makes.",
    )
    share: Fraction = Field(
        default=0.5,
        description="Share of the channels that the target shares with other tasks that may change, the most important "
        "to the target first. What only the target uses always may.",
    )
    loss_batches: PositiveInt = Field(
        default=8, description="Training batches whose gradients tell how important channels are."
    )
    train: TrainSettings = Field(description="What differs from `train`; only the target's loss counts.")
