"""Any sequence of items as a dataset: those of torchvision, of Hugging Face `datasets`, or one's own."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from lomt.data.columns import DenseColumn
from lomt.data.decode import UNREADABLE, Size, decode_stored, fit_image, reason
from lomt.data.sample import IMAGE, Sample, TargetSpec
from lomt.data.splits import check_arguments
from lomt.errors import DataError, UnknownNameError

__all__ = ["Answer", "Items", "ItemsDataset", "adapt"]


@runtime_checkable
class Items(Protocol):
    """What torchvision and Hugging Face have in common."""

    def __len__(self) -> int:
        """Return the number of items."""

    def __getitem__(self, index: int, /) -> Any:
        """Return an item: a tuple or a mapping."""


@dataclass(frozen=True)
class Answer:
    """A target with one answer an item: a class index, labels of 0 and 1, or numbers.

    Args:
        spec: The target.
    """

    spec: TargetSpec


@dataclass(frozen=True, eq=False)
class ItemsDataset:
    """Items as samples; made by `adapt`.

    Args:
        items: The items.
        name: Short name for tables and logs.
        keys: Where in an item the image and each target are.
        columns: How each target is to be understood.
        size: Height and width of all samples.
        fingerprint: Hexadecimal hash that changes when the samples may have changed.
    """

    items: Items
    name: str
    keys: Mapping[str, str | int]
    columns: Mapping[str, DenseColumn | Answer]
    size: Size
    fingerprint: str

    @property
    def targets(self) -> Mapping[str, TargetSpec]:
        """The targets by name."""
        return {
            name: column.spec if isinstance(column, Answer) else column.spec(name)
            for name, column in self.columns.items()
        }

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.items)

    def sample(self, index: int) -> Sample:
        """Return one item as a sample.

        Args:
            index: From 0 to ``len(self) - 1``.

        Raises:
            IndexError: If there is no such item.
            DataError: If the item cannot be read or is not as described; names item and key.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"Expected `index` to be from 0 to {len(self) - 1}, but got {index}.")
        try:
            item = self.items[index]
        except UNREADABLE as error:
            raise DataError(f"{self.name} item {index}: {reason(error)}") from error
        try:
            image, stored = fit_image(_image(_part(item, self.keys[IMAGE])), self.size)
        except UNREADABLE as error:
            raise self._unreadable(index, IMAGE, error) from error
        sample = {IMAGE: image}
        for name, column in self.columns.items():
            try:
                value = np.asarray(_part(item, self.keys[name]))
                if isinstance(column, Answer):
                    sample[name] = _answer(value, column.spec)
                else:
                    sample[name] = decode_stored(value, column, self.size, stored)
            except UNREADABLE as error:
                raise self._unreadable(index, name, error) from error
        return sample

    def _unreadable(self, index: int, name: str, error: Exception) -> DataError:
        return DataError(f"{self.name} item {index}, key `{self.keys[name]}` (`{name}`): {reason(error)}")


def adapt(
    items: Items,
    *,
    name: str,
    size: Size,
    image: str | int,
    targets: Mapping[str, tuple[str | int, DenseColumn | Answer]],
    version: str = "",
) -> ItemsDataset:
    """Make a dataset of a sequence of items, such as one of torchvision or Hugging Face `datasets`.

    Args:
        items: Has ``len`` and gives tuples or mappings by index. Its own transformations should leave images as
            they are: PIL images, or uint8 arrays ``(H, W, 3)``.
        name: Short name for tables and logs.
        size: Height and width of the samples in pixels.
        image: Where in an item its image is: an index of a tuple or a key of a mapping.
        targets: By name, where in an item the target is and how it is to be understood: a column as in a
            `dataset.yaml`, or an `Answer`.
        version: What changes when the items do; it becomes part of the fingerprint.

    Raises:
        ValueError: If ``size`` is out of its range, or there are no targets.

    Example:
        >>> import numpy as np
        >>> from lomt.data import Answer, TargetSpec, adapt
        >>> items = [(np.zeros((6, 8, 3), np.uint8), 1)]
        >>> digit = Answer(TargetSpec("digit", "classification", classes=("zero", "one")))
        >>> dataset = adapt(items, name="tiny", size=(3, 4), image=0, targets={"digit": (1, digit)})
        >>> dataset.sample(0)["digit"].item()
        1
    """
    check_arguments(size, 0.0, 0)
    if not targets:
        raise ValueError("Expected `targets` not to be empty.")
    text = f"{name}\n{len(items)}\n{version}\n{sorted(targets)}"
    return ItemsDataset(
        items=items,
        name=name,
        keys={IMAGE: image, **{target: key for target, (key, _) in targets.items()}},
        columns={target: column for target, (_, column) in targets.items()},
        size=(size[0], size[1]),
        fingerprint=hashlib.sha256(text.encode()).hexdigest(),
    )


def _part(item: Any, key: str | int) -> Any:
    if isinstance(key, str) and isinstance(item, Mapping):
        if key not in item:
            raise UnknownNameError("key", key, map(str, item))
        return item[key]
    if isinstance(key, int) and isinstance(item, Sequence) and not isinstance(item, str):
        if not 0 <= key < len(item):
            raise ValueError(f"Expected an item of more than {key} parts, but got {len(item)}.")
        return item[key]
    kind = "a mapping" if isinstance(key, str) else "a tuple"
    raise ValueError(f"Expected {kind}, because `{key}` is looked up in it, but got {type(item).__name__}.")


def _image(value: Any) -> Image.Image:
    if isinstance(value, str | Path):
        raise ValueError(f"Expected an image, but got the path {value}. Let the dataset decode its images.")
    if isinstance(value, Image.Image):
        return value.convert("RGB")
    array = np.asarray(value)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise ValueError(
            f"Expected an image or uint8 of shape (height, width, 3), but got {array.dtype} of {array.shape}."
        )
    return Image.fromarray(array)


def _answer(value: np.ndarray, spec: TargetSpec) -> np.ndarray:
    """Bring an answer into the convention of its kind."""
    if spec.kind == "classification":
        if value.shape != () or value.dtype.kind not in "ui" or not -1 <= int(value) < len(spec.classes):
            raise ValueError(
                f"Expected a class index from 0 to {len(spec.classes) - 1}, or -1 for none, but got {value}."
            )
        return value.astype(np.int32)
    value = value.reshape(1) if value.shape == () else value
    if value.shape != (spec.out_channels,) or value.dtype.kind not in "buif":
        raise ValueError(f"Expected {spec.out_channels} numbers, but got {value.dtype} of {value.shape}.")
    if spec.kind == "multilabel":
        if not np.isin(value, (-1, 0, 1)).all():
            raise ValueError(f"Expected labels of 0 and 1, or -1 for none, but got {value}.")
        return value.astype(np.int8)
    return value.astype(np.float32)
