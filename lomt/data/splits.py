"""Which rows of a table belong to a split, and the validation samples held out of train."""

from collections.abc import Collection

import numpy as np
from jaxtyping import Bool, Int64

from lomt.data.decode import Size
from lomt.data.description import Description
from lomt.data.sample import Split
from lomt.data.table import Table
from lomt.errors import DataError

__all__ = ["check_arguments", "held_out", "split_rows"]


def split_rows(
    table: Table, description: Description, split: Split, validation_fraction: float, seed: int
) -> Int64[np.ndarray, " rows"]:
    """Return the positions of a split's rows, ascending.

    Args:
        table: The whole table, with the split column where the description has ``splits``.
        description: The dataset's description.
        split: Which samples.
        validation_fraction: Share of the train rows held out for validation, from 0 to below 1; not used
            where there is a validation split.
        seed: Decides which rows are held out.

    Raises:
        DataError: If the split does not exist or has no rows.
    """
    splits = description.splits
    has_validation = splits is not None and "validation" in splits
    source: Split = "train" if split == "validation" and not has_validation else split
    if splits is None:
        rows = np.arange(len(table) if source == "train" else 0, dtype=np.int64)
    elif source in splits:
        rows = np.flatnonzero(table.columns[description.split_column] == splits[source].encode())
    else:
        raise DataError(
            f"Expected a `{source}` split in `splits` of {description.name}, but got {_names(splits)}."
        )
    if not has_validation and source == "train":
        is_held = held_out(len(rows), validation_fraction, seed)
        rows = rows[is_held if split == "validation" else ~is_held]
    if not len(rows):
        raise DataError(_empty_split(table, description, split, validation_fraction))
    return rows


def check_arguments(
    size: Size | None, validation_fraction: float, seed: int, test_fraction: float = 0.0
) -> None:
    """Raise a ValueError where one of the arguments that all datasets take is out of its range."""
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise ValueError(f"Expected `size` to be height and width of at least 1 pixel, but got {size}.")
    for name, fraction in (("validation", validation_fraction), ("test", test_fraction)):
        if not 0 <= fraction < 1:
            raise ValueError(f"Expected `{name}_fraction` to be from 0 to below 1, but got {fraction}.")
    if seed < 0:
        raise ValueError(f"Expected `seed` to be at least 0, but got {seed}.")


def held_out(count: int, fraction: float, seed: int) -> Bool[np.ndarray, " count"]:
    """Choose a share of ``count`` rows at random; at least one, and never all, unless the share is 0."""
    chosen = np.zeros(count, bool)
    if fraction > 0 and count > 1:
        number = min(max(round(count * fraction), 1), count - 1)
        chosen[np.random.default_rng(seed).permutation(count)[:number]] = True
    return chosen


def _empty_split(table: Table, description: Description, split: Split, fraction: float) -> str:
    """Say why a split has no rows, and what to do."""
    splits = description.splits
    if split == "validation" and (splits is None or split not in splits):
        need = "`validation_fraction` above 0" if fraction == 0 else "at least 2 train samples"
        return (
            f"Dataset {description.name} has no validation split: Expected {need} to hold one out of train."
        )
    if splits is None:
        if split == "train":
            return f"Expected samples in {table.path}, but it has no rows."
        return f"Expected `{split}` in `splits` of {description.name}, but there are no `splits`."
    column = description.split_column
    found = sorted({cell.decode() for cell in table.columns[column].tolist()})
    return (
        f"Expected rows of {table.path} with `{splits[split]}` in column `{column}`, but got {_names(found)}."
    )


def _names(names: Collection[str], most: int = 10) -> str:
    shown = ", ".join(f"`{name}`" for name in list(names)[:most]) or "none"
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
