"""The keys of `lomt group`: how affinities between tasks are measured, and how groups are made of them."""

from typing import Annotated, Literal

from pydantic import Field

from lomt.recipe.base import NonNegative, Positive, PositiveInt, Settings

__all__ = ["GroupSettings"]

Probability = Annotated[float, Field(gt=0, lt=1)]


class GroupSettings(Settings):
    """Which tasks share a network."""

    method: Literal["gradtag", "lookahead", "cosine"] = Field(
        default="gradtag",
        description="`gradtag`: linear models in projected gradients of the dense network. `lookahead` (TAG): what a "
        "step on one task does to the others. `cosine`: of the tasks' gradients.",
    )
    groups: PositiveInt | None = Field(
        default=None, description="How many networks; null leaves the number to `penalty`."
    )
    penalty: NonNegative | None = Field(
        default=None,
        description="Average density that each further group has to gain; null with `groups: null` is 0.",
    )
    clustering: Literal["auto", "sdp", "spectral"] = Field(
        default="auto", description="`auto` is the semidefinite program up to 200 tasks, spectral beyond."
    )
    standardise: bool = Field(
        default=False, description="Bring each task's row of affinities to mean 0 and deviation 1 first."
    )
    samples: PositiveInt = Field(
        default=400, description="Training images whose gradients are taken (gradtag)."
    )
    held_out: PositiveInt = Field(
        default=200,
        description="Images on which losses are compared: of the validation split where there is one, else "
        "training images after `samples` (gradtag).",
    )
    dimension: PositiveInt = Field(
        default=200, description="Numbers that a gradient is projected to (gradtag)."
    )
    projection: Literal["sparse", "rademacher"] = Field(
        default="sparse",
        description="`sparse`: each weight goes to one sum. `rademacher`: to all, as published; `dimension` times "
        "the work.",
    )
    norms: bool = Field(
        default=False, description="Whether norms and biases are among the shared weights (gradtag)."
    )
    subset_size: int = Field(
        default=2, ge=2, description="Tasks in a subset: 2 for all pairs, more for sampled subsets (gradtag)."
    )
    subsets: PositiveInt | None = Field(
        default=None, description="How many larger subsets; null is about five a pair (gradtag)."
    )
    ridge: Positive = Field(
        default=0.01, description="Strength of the fits' penalty, without unit (gradtag)."
    )
    offset: bool = Field(
        default=True,
        description="Keep the network's own outputs in the fits, as derived; false fits as the authors' code does.",
    )
    flip: Probability = Field(default=0.7, description="Share of kept signs with `offset: false`.")
    reach: Positive | None = Field(
        default=0.1,
        description="Longest change of the shared weights, as a share of their own length; null for no limit.",
    )
    length: Positive | None = Field(
        default=None, description="Bring every change to this length instead, as the authors' image code (2)."
    )
    evaluate: Literal["lifted", "projected"] = Field(
        default="lifted",
        description="`lifted`: run the changed network. `projected`: trust the linear model, at no cost.",
    )
    learning_rate: Positive = Field(default=1e-3, description="Of the trial step (lookahead).")
    batches: PositiveInt = Field(
        default=8, description="Batches looked at after every epoch (lookahead, cosine)."
    )
    heat_map: bool = Field(default=True, description="Draw heat_map.png.")
