"""One way to open a dataset of any layout, with or without a cache."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lomt.data.decode import Size
from lomt.data.description import read_description
from lomt.data.folder import open_folder
from lomt.data.image_folder import IMAGES, image_rows, open_images
from lomt.data.memory_map import MappedDataset, open_map
from lomt.data.published import FOLDER, open_published
from lomt.data.sample import Dataset, Split, TargetSpec
from lomt.data.splits import check_arguments, held_out
from lomt.data.subset import Subset
from lomt.errors import DataError, UnknownNameError

__all__ = ["SPLITS", "open_cached", "open_dataset", "splits_of", "targets_of"]

SPLITS: tuple[Split, ...] = ("train", "validation", "test")


def splits_of(layout: str, path: Path) -> tuple[Split, ...]:
    """Return the splits that a dataset itself has, without reading samples.

    Args:
        layout: Name of the layout, as `lomt.data.identify` returns it.
        path: The dataset.

    Raises:
        DataError: If the dataset is not of this layout.
    """
    if layout == IMAGES:
        return ("train",)
    if layout == FOLDER:
        named = read_description(path / "dataset.yaml").splits
        return ("train",) if named is None else tuple(split for split in SPLITS if split in named)
    splits = open_published(layout, path).splits
    return tuple(split for split in SPLITS if split in splits)


def targets_of(layout: str, path: Path) -> Mapping[str, TargetSpec]:
    """Return all targets that a dataset has, variants included, without reading samples; see `splits_of`."""
    if layout == IMAGES:
        return {}
    if layout == FOLDER:
        targets = read_description(path / "dataset.yaml").targets
        return {name: target.spec(name) for name, target in targets.items()}
    return open_published(layout, path).targets


def open_dataset(
    layout: str,
    path: Path,
    split: Split,
    *,
    size: Size | None,
    targets: Sequence[str] | None = None,
    validation_fraction: float = 0.0,
    test_fraction: float = 0.0,
    seed: int = 0,
) -> Dataset:
    """Open one split of a dataset; see `lomt.data.open_folder` for arguments and errors.

    Args:
        layout: Name of the layout, as `lomt.data.identify` returns it.
        path: The dataset.
        split: Which samples.
        size: Height and width of the decoded samples; None keeps each image's own.
        targets: Names of the targets; by default all of a folder, the main ones of a published dataset.
        validation_fraction: Share of the train samples held out for validation, where there is no such split.
        test_fraction: Share of all images held out for testing, before that; of a folder of images only.
        seed: Decides which samples are held out.
    """
    if layout == IMAGES:
        for name in targets or ():
            raise UnknownNameError(f"target of the images in {path}", name, ())
        return open_images(
            path,
            split,
            size=size,
            validation_fraction=validation_fraction,
            test_fraction=test_fraction,
            seed=seed,
        )
    if layout == FOLDER:
        return open_folder(
            path, split, size=size, targets=targets, validation_fraction=validation_fraction, seed=seed
        )
    return open_published(layout, path).split(
        split, size=size, targets=targets, validation_fraction=validation_fraction, seed=seed
    )


def open_cached(
    cache: Path,
    layout: str,
    path: Path,
    split: Split,
    *,
    size: Size,
    targets: Sequence[str] | None = None,
    validation_fraction: float = 0.0,
    test_fraction: float = 0.0,
    seed: int = 0,
) -> Dataset:
    """Open one split of a dataset from a folder with a cache of each split that the dataset itself has.

    Args:
        cache: Folder with a folder for each split, as `lomt data cache` writes it.
        layout: See `open_dataset`, as for all that follow.
        path: The dataset, which the cache has to be of.
        split: Which samples; a validation split is held out of the cache of train.
        size: Height and width.
        targets: Names of the targets.
        validation_fraction: Share held out.
        test_fraction: Share held out of a folder of images.
        seed: Decides which samples are held out.

    Raises:
        DataError: If the cache is missing, damaged or of something else, or as for `open_dataset`.
    """
    check_arguments(size, validation_fraction, seed, test_fraction)
    own = splits_of(layout, path)
    is_held_out = split == "validation" and "validation" not in own
    source: Split = "train" if is_held_out or layout == IMAGES else split
    whole = open_dataset(layout, path, source, size=size, targets=targets)
    mapped = open_map(cache / source, whole)
    if layout == IMAGES:
        rows = image_rows(len(mapped), split, validation_fraction, test_fraction, seed)
        return Subset(mapped, rows)
    return _without_held_out(mapped, own, split, validation_fraction, seed)


def _without_held_out(
    mapped: MappedDataset, own: Sequence[Split], split: Split, validation_fraction: float, seed: int
) -> Dataset:
    """Return a split of what is cached as train or as itself."""
    if "validation" in own or split == "test" or validation_fraction == 0:
        return mapped
    chosen = held_out(len(mapped), validation_fraction, seed)
    indices = np.flatnonzero(chosen if split == "validation" else ~chosen)
    if not len(indices):
        raise DataError(f"Expected samples in split `{split}` of {mapped.name}, but it is empty.")
    return Subset(mapped, indices)
