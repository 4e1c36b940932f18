"""The keys of the quantize stage: how much quality int8 may cost, and what it is calibrated on."""

from typing import Annotated, Literal

from pydantic import Field

from lomt.recipe.base import PositiveInt, Settings

__all__ = ["QuantizeSettings"]


class QuantizeSettings(Settings):
    """An int8 file of the network to deploy."""

    share: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.99, description="Share of its float primary metric that every task keeps."
    )
    images: PositiveInt = Field(default=64, description="Training images that the ranges come from.")
    method: Literal["minmax", "entropy", "percentile"] = Field(
        default="minmax", description="How the range of an activation follows from the images."
    )
    reduce_range: bool | None = Field(
        default=None,
        description="Weights of 7 bits, against sums that overflow on processors without VNNI; null asks this one.",
    )
    keep_float: list[str] = Field(default=[], description="Nodes of the ONNX file that stay in float.")
