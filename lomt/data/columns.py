"""How each kind of target is stored in a folder dataset: what ``targets`` of its description may hold."""

from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from lomt.data.sample import TargetKind, TargetSpec

__all__ = [
    "ClassificationColumn",
    "DenseColumn",
    "DepthColumn",
    "EdgesColumn",
    "ImageColumn",
    "KeypointsColumn",
    "MultilabelColumn",
    "NormalsColumn",
    "RegressionColumn",
    "SegmentationColumn",
    "Strict",
    "TargetColumn",
]


def _all_different(names: list[str]) -> list[str]:
    if len(set(names)) != len(names):
        raise ValueError("Expected names that are all different")
    return names


Classes: TypeAlias = Annotated[list[str], Field(min_length=1), AfterValidator(_all_different)]


class Strict(BaseModel):
    """A part of the description: no unknown keys, no conversion from other types."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ImageColumn(Strict):
    """Where the images are: PNG, JPEG (anything Pillow reads as 8-bit) or NPY uint8 ``(H, W, 3)``."""

    column: str = "image"


class _Target(Strict):
    kind: TargetKind

    def spec(self, name: str) -> TargetSpec:
        """Return the target as the other parts see it."""
        return TargetSpec(name, self.kind)


class _OneColumn(_Target):
    column: str

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the table that the target is read from."""
        return (self.column,)


class _Files(_OneColumn):
    """A target of which the column names the files."""

    @property
    def stored_channels(self) -> int:
        """Number of values stored for each pixel."""
        return 1


class _ManyColumns(_Target):
    column: str | None = None
    columns_: list[str] | None = Field(default=None, alias="columns", min_length=1)

    @model_validator(mode="after")
    def _check_columns(self) -> "_ManyColumns":
        if (self.column is None) == (self.columns_ is None):
            raise ValueError("Expected either `column` or `columns`")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the table that the target is read from."""
        return (self.column,) if self.column is not None else tuple(self.columns_ or ())


class SegmentationColumn(_Files):
    """A class index per pixel; ``classes[0]`` is stored as ``first_index``, ``ignore_index`` is no label."""

    kind: Literal["segmentation"]
    classes: Classes
    ignore_index: int | None = None
    first_index: int = 0

    def spec(self, name: str) -> TargetSpec:
        """Return the target as the other parts see it."""
        return TargetSpec(name, self.kind, classes=tuple(self.classes))


class DepthColumn(_Files):
    """Depth: stored value times ``scale`` is metres; ``invalid``, zero, negative and NaN are no depth."""

    kind: Literal["depth"]
    scale: float = Field(default=1.0, gt=0)
    invalid: float | None = 0.0


class NormalsColumn(_Files):
    """Normals: 8-bit RGB, n = value / 127.5 - 1, or floats; ``invalid`` is stored where there is none."""

    kind: Literal["normals"]
    invalid: list[float] | None = Field(default=None, min_length=3, max_length=3)

    @property
    def stored_channels(self) -> int:
        """Number of values stored for each pixel."""
        return 3


class EdgesColumn(_Files):
    """Edges: a stored value above ``threshold`` is an edge; ``ignore_index`` and NaN are no label."""

    kind: Literal["edges"]
    ignore_index: float | None = None
    threshold: float = 0.5


class KeypointsColumn(_Files):
    """Heat maps: stored value times ``scale`` lies in 0 to 1; negative, NaN and ``invalid`` are no label.

    Without ``scale`` it is 1/255 for 8-bit files, 1/65535 for 16-bit ones and 1 for floats.
    """

    kind: Literal["keypoints"]
    channels: int = Field(default=1, ge=1)
    scale: float | None = Field(default=None, gt=0)
    invalid: float | None = None

    @property
    def stored_channels(self) -> int:
        """Number of values stored for each pixel."""
        return self.channels

    def spec(self, name: str) -> TargetSpec:
        """Return the target as the other parts see it."""
        return TargetSpec(name, self.kind, channels=self.channels)


class ClassificationColumn(_OneColumn):
    """A class name in the table itself; an empty cell is no label."""

    kind: Literal["classification"]
    classes: Classes

    def spec(self, name: str) -> TargetSpec:
        """Return the target as the other parts see it."""
        return TargetSpec(name, self.kind, classes=tuple(self.classes))


class MultilabelColumn(_ManyColumns):
    """Several labels: ``columns`` of 0 and 1, or one ``column`` of names between ``|`` out of ``classes``.

    With ``columns`` an empty cell is no label, and the labels have the columns' names unless ``classes``
    renames them. With one ``column`` an empty cell means that none of the labels holds.
    """

    kind: Literal["multilabel"]
    classes: Classes | None = None

    @model_validator(mode="after")
    def _check_classes(self) -> "MultilabelColumn":
        if self.column is not None and self.classes is None:
            raise ValueError("Expected `classes` beside `column`")
        if self.columns_ and self.classes and len(self.classes) != len(self.columns_):
            raise ValueError("Expected as many `classes` as `columns`")
        return self

    def spec(self, name: str) -> TargetSpec:
        """Return the target as the other parts see it."""
        return TargetSpec(name, self.kind, classes=tuple(self.classes or self.columns))


class RegressionColumn(_ManyColumns):
    """One number for each of ``columns`` (or the one ``column``); an empty cell is no label."""

    kind: Literal["regression"]

    def spec(self, name: str) -> TargetSpec:
        """Return the target as the other parts see it."""
        return TargetSpec(name, self.kind, channels=len(self.columns))


DenseColumn: TypeAlias = SegmentationColumn | DepthColumn | NormalsColumn | EdgesColumn | KeypointsColumn
TargetColumn: TypeAlias = DenseColumn | ClassificationColumn | MultilabelColumn | RegressionColumn
