"""The keys of `lomt group`: how affinities between tasks are measured, and how groups are made of them."""

from typing import Annotated, Literal

from pydantic import Field

from lomt.recipe.base import NonNegative, Positive, PositiveInt, Settings

__all__ = ["CLASS_KINDS", "MOST_FOR_TAG", "GroupSettings"]

CLASS_KINDS = ("classification", "multilabel", "segmentation", "edges")
"""Kinds of tasks that have data maps."""
MOST_FOR_TAG = 12
"""Tasks beyond which `clustering: tag` is refused."""

Probability = Annotated[float, Field(gt=0, lt=1)]


class GroupSettings(Settings):
    """Which tasks share a network."""

    method: Literal["gradtag", "lookahead", "cosine", "dmtg", "data_maps"] = Field(
        default="gradtag",
        description="`gradtag`: linear models in projected gradients of the dense network. `lookahead` (TAG): what a "
        "step on one task does to the others. `cosine`: of the tasks' gradients. Without affinities: `dmtg`, tasks "
        "shared out among `groups` networks by descent while all are trained; `data_maps` (STG-MTL), k-means of how "
        "probabilities of the true class move over epochs, for tasks with classes.",
    )
    groups: PositiveInt | None = Field(
        default=None,
        description="How many networks; null leaves the number to `penalty` (clustering sdp). dmtg, data_maps and the "
        "clusterings spectral and tag need it.",
    )
    penalty: NonNegative | None = Field(
        default=None,
        description="Average density that each further group has to gain; null with `groups: null` is 0.",
    )
    clustering: Literal["auto", "sdp", "spectral", "tag"] = Field(
        default="auto",
        description="Of affinities. `auto` is the semidefinite program up to 200 tasks, spectral beyond. `tag`: the at "
        "most `groups` networks with the highest total affinity, exactly, up to 12 tasks.",
    )
    helpers: bool = Field(
        default=True,
        description="Whether a network may be trained on tasks that another one serves, as published "
        "(clustering tag).",
    )
    standardise: bool = Field(
        default=False, description="Bring each task's row of affinities to mean 0 and deviation 1 first."
    )
    samples: PositiveInt = Field(
        default=400,
        description="Training images whose gradients are taken (gradtag), or of which the maps are (data_maps); "
        "whole batches.",
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
    temperature: Positive = Field(
        default=4.0, description="Of the Gumbel-softmax, constant; the paper takes 2.5 on CelebA (dmtg)."
    )
    hard: bool = Field(
        default=False,
        description="Give each task to one network at every step, not to all in part; settles earlier, and sooner "
        "wrongly (dmtg).",
    )
    entropy: NonNegative = Field(
        default=0.0,
        description="Weight of a pull towards clear decisions; the authors' 1.2 where used (dmtg).",
    )
    fuzziness: float = Field(
        default=1.07,
        gt=1,
        description="Of the memberships: near 1 for clear ones, larger for more alike (data_maps).",
    )
    heat_map: bool = Field(default=True, description="Draw heat_map.png.")
