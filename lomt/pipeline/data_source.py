"""From a recipe's block `data` to the samples of a split."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from lomt.data import (
    CachedDataset,
    Dataset,
    RoomsDataset,
    TargetSpec,
    open_cached,
    open_dataset,
    splits_of,
    targets_of,
)
from lomt.errors import DataError
from lomt.models.factory import load_factory
from lomt.recipe import Recipe, find_data

__all__ = ["Split", "channels_of", "known_targets", "needs_check", "open_split"]

Split = Literal["train", "validation", "test"]
_ROOMS_OFFSETS = {"train": 0, "validation": 1, "test": 2}


def open_split(recipe: Recipe, split: Split, targets: list[str]) -> Dataset | None:
    """Return a split, or None for a validation split that there is not.

    Args:
        recipe: Validated.
        split: Which samples.
        targets: Names of the targets to read.

    Raises:
        DataError: If the data are not as described.
    """
    if recipe.data.kind == "rooms":
        return _rooms(recipe, split, targets)
    if recipe.data.kind == "factory":
        return _made(recipe, split)
    return _stored(recipe, split, targets)


def known_targets(recipe: Recipe) -> Mapping[str, TargetSpec]:
    """Return all targets that a dataset has, whatever the recipe asks for.

    Raises:
        DataError: If the data are not as described.
    """
    if recipe.data.kind == "rooms":
        return RoomsDataset(1).targets
    if recipe.data.kind == "factory":
        made = _made(recipe, "test")
        return {} if made is None else made.targets
    return targets_of(recipe.data.kind, find_data(recipe.data))


def channels_of(inputs: Mapping[str, TargetSpec]) -> int:
    """Count the channels of images that have further inputs behind red, green and blue."""
    return 3 + sum(spec.out_channels for spec in inputs.values())


def needs_check(recipe: Recipe) -> bool:
    """Return whether samples may be damaged: they are when they are files, not when drawn or checked before."""
    return recipe.data.kind != "rooms" and recipe.data.cache_dir is None


def _stored(recipe: Recipe, split: Split, targets: list[str]) -> Dataset | None:
    data = recipe.data
    root = find_data(data)
    is_held_out = data.validation_fraction > 0
    if split == "validation" and not is_held_out and "validation" not in splits_of(data.kind, root):
        return None
    if data.cache_dir is not None:
        return open_cached(
            Path(data.cache_dir).expanduser(),
            data.kind,
            root,
            split,
            size=data.size,
            targets=targets,
            validation_fraction=data.validation_fraction,
            test_fraction=data.test_fraction,
            seed=recipe.seed,
        )
    dataset = open_dataset(
        data.kind,
        root,
        split,
        size=data.size,
        targets=targets,
        validation_fraction=data.validation_fraction,
        test_fraction=data.test_fraction,
        seed=recipe.seed,
    )
    return CachedDataset(dataset) if data.cache else dataset


def _rooms(recipe: Recipe, split: Split, targets: list[str]) -> Dataset | None:
    count = getattr(recipe.data.counts, split)
    if not count:
        return None
    # Splits are rooms of their own: no seed is shared.
    seed = 3 * recipe.seed + _ROOMS_OFFSETS[split]
    return CachedDataset(RoomsDataset(count, size=recipe.data.size, seed=seed, targets=targets))


def _made(recipe: Recipe, split: Split) -> Dataset | None:
    """Call the recipe's factory."""
    data = recipe.data
    assert data.factory is not None  # checked with the recipe
    made = load_factory(data.factory)(split=split, size=tuple(data.size), **data.factory_options)
    if made is None and split == "validation":
        return None
    if not isinstance(made, Dataset):
        raise DataError(
            f"Expected `data.factory` {data.factory} to return a dataset for split `{split}`, such as "
            f"`lomt.data.adapt` makes, but got {type(made).__name__}."
        )
    return CachedDataset(made) if data.cache else made
