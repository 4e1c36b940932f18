"""What all blocks of a recipe have in common, and the number types they use."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, Strict

__all__ = [
    "IMAGE_KINDS",
    "Fraction",
    "NonNegative",
    "Positive",
    "PositiveInt",
    "Relaxed",
    "Settings",
    "TaskKind",
]

TaskKind = Literal[
    "segmentation", "depth", "normals", "edges", "keypoints", "classification", "multilabel", "regression"
]
IMAGE_KINDS = ("classification", "multilabel", "regression")
"""Kinds with one answer an image; the others have one a pixel."""


PositiveInt = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Relaxed = Strict(False)
"""Lets a YAML list stand for a tuple; what is inside stays strict."""


class Settings(BaseModel):
    """A block of a recipe: unknown keys are refused, `"3"` is no number, values cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
