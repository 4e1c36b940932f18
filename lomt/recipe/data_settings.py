"""The keys of the data: where samples come from, and how they are varied in training."""

from typing import Annotated, Any, Literal

from pydantic import Field

from lomt.recipe.base import Fraction, Positive, PositiveInt, Relaxed, Settings

__all__ = ["AugmentSettings", "DataSettings", "RoomCounts"]

Enlargement = Annotated[float, Field(ge=1)]
Colour = Annotated[tuple[float, float, float], Relaxed]
PositiveColour = Annotated[tuple[Positive, Positive, Positive], Relaxed]


class RoomCounts(Settings):
    """How many rooms are drawn for each split."""

    train: PositiveInt = Field(default=800, description="Training images.")
    validation: int = Field(default=0, ge=0, description="Validation images; 0 for none.")
    test: PositiveInt = Field(default=200, description="Test images.")


class AugmentSettings(Settings):
    """Random changes of the training images and of their targets."""

    flip: Fraction = Field(default=0.5, description="Probability of a left-right flip.")
    scale: Annotated[tuple[Enlargement, Enlargement], Relaxed] = Field(
        default=(1.0, 1.0),
        description="Smallest and largest factor, at least 1, by which a crop is enlarged.",
    )
    rescale_depth: bool = Field(default=True, description="Divide depth by the factor of `scale`.")
    brightness: Fraction = Field(default=0.0, description="Largest relative change of brightness.")
    contrast: Fraction = Field(default=0.0, description="Largest relative change of contrast.")


class DataSettings(Settings):
    """Where the samples come from."""

    kind: Literal[
        "folder",
        "images",
        "rooms",
        "nyuv2_mat",
        "nyuv2_mtan",
        "nyud_mt",
        "celebamask",
        "cityscapes",
        "mtfl",
        "taskonomy",
        "factory",
    ] = Field(
        description="`folder`: a folder with a dataset.yaml. `images`: a folder of images without labels. `rooms`: "
        "synthetic rooms, no download. `factory`: what `data.factory` returns. The others are datasets as published; "
        "`lomt data check PATH` tells which."
    )
    root: str | None = Field(
        default=None,
        description="Dataset folder (nyuv2_mat: or the file); a relative one is looked up in $LOMT_DATA, then in "
        "the working directory.",
    )
    size: Annotated[tuple[PositiveInt, PositiveInt], Relaxed] = Field(
        description="Height and width in pixels of what the model sees."
    )
    validation_fraction: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Share of the training split held out for validation, where a stored dataset has no "
        "validation split.",
    )
    test_fraction: float = Field(
        default=0.1,
        gt=0,
        lt=1,
        description="Share of all images held out for testing, before `validation_fraction` (kind images).",
    )
    targets: Literal["dataset", "original"] = Field(
        default="dataset",
        description="`dataset`: its labels. `original`: predictions of the original network, `model.factory`, for the "
        "training and validation splits, and in the test split for tasks of which the dataset has no labels.",
    )
    counts: RoomCounts = Field(default=RoomCounts(), description="Images a split (kind rooms).")
    cache: bool = Field(default=True, description="Decode every image once and keep it in memory.")
    cache_dir: str | None = Field(
        default=None,
        description="Folder written by `lomt data cache`: samples are read from it, memory-mapped, and not decoded.",
    )
    damaged: Literal["refuse", "skip"] = Field(
        default="refuse",
        description="Before training every sample is read. `refuse`: damaged ones end the run. `skip`: they are "
        "left out and counted in the summary.",
    )
    factory: str | None = Field(
        default=None,
        description="`package.module:callable` or `path/file.py:callable` (kind factory), called with split and size; "
        "returns a dataset such as lomt.data.adapt makes, or None for no validation split.",
    )
    factory_options: dict[str, Any] = Field(
        default={}, description="Further keyword arguments of the factory."
    )
    workers: int = Field(default=0, ge=0, description="Loader processes; 0 loads in a thread.")
    augment: AugmentSettings = Field(
        default=AugmentSettings(), description="Random changes of training images."
    )
    mean: Colour | None = Field(
        default=None, description="Mean of red, green, blue in 0..1; null takes the backbone's own."
    )
    std: PositiveColour | None = Field(
        default=None, description="Standard deviation of red, green, blue; null takes the backbone's own."
    )
