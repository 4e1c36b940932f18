"""The description of a folder dataset, ``dataset.yaml``, and what is wrong in it."""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Annotated, Any, get_args

import yaml
from pydantic import AfterValidator, BaseModel, Field, ValidationError, model_validator

from lomt.data.columns import ImageColumn, Strict, TargetColumn
from lomt.data.sample import IMAGE, TARGET_KINDS, Split
from lomt.errors import DataError, UnknownNameError

__all__ = ["Description", "read_description"]

_COLUMNS: Mapping[str, type[BaseModel]] = {
    get_args(model.model_fields["kind"].annotation)[0]: model for model in get_args(TargetColumn)
}


def _inside(path: str) -> str:
    if PurePath(path).is_absolute() or ".." in PurePath(path).parts:
        raise ValueError("Expected a path inside the dataset's folder")
    return path


class Description(Strict):
    """A whole ``dataset.yaml``.

    ``splits`` maps our split names to the values in the table's column ``split_column``; without ``splits``
    every row belongs to train. Rows with other values belong to no split.
    """

    name: str
    samples: Annotated[str, AfterValidator(_inside)] = "samples.csv"
    image: ImageColumn = ImageColumn()
    split_column: str = "split"
    splits: dict[Split, str] | None = Field(default=None, min_length=1)
    targets: dict[str, Annotated[TargetColumn, Field(discriminator="kind")]] = Field(min_length=1)

    @model_validator(mode="after")
    def _check_names(self) -> "Description":
        if IMAGE in self.targets:
            raise ValueError("Expected no target to be named `image`, which is the input")
        return self


def read_description(path: Path) -> Description:
    """Read and check a ``dataset.yaml``.

    Args:
        path: The YAML file.

    Raises:
        DataError: If the file is missing or is not YAML, or with all mistakes in it, each beginning with its
            key.
    """
    if not path.is_file():
        raise DataError(
            f"Expected a dataset description at {path}, but there is none. "
            "A folder dataset needs a `dataset.yaml` and a CSV table beside it."
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"Expected {path} to be YAML in UTF-8, but got: {error}") from error
    if not isinstance(content, dict):
        raise DataError(
            f"Expected {path} to be a mapping of keys to values, but got {type(content).__name__}."
        )
    try:
        return Description.model_validate(content)
    except ValidationError as error:
        problems = [_problem(dict(details), content) for details in error.errors()]
        count = f"{len(problems)} problem" + ("s" if len(problems) != 1 else "")
        raise DataError("\n".join([f"{path} has {count}:", *(f"  {p}" for p in problems)])) from error


def _problem(details: Mapping[str, Any], content: Mapping[str, Any]) -> str:
    """Say one of pydantic's findings in a sentence that begins with the key."""
    location = [part for part in details["loc"] if part != "[key]"]
    key_path = _without_tag(location)
    key = ".".join(str(part) for part in key_path) or "the whole"
    kind = details["type"]
    if kind == "extra_forbidden":
        known = _known_keys(key_path, content)
        return f"`{key}`: {UnknownNameError('key', str(key_path[-1]), known)}"
    if kind == "union_tag_invalid":
        return f"`{key}.kind`: {UnknownNameError('target kind', details['ctx']['tag'], TARGET_KINDS)}"
    if kind == "union_tag_not_found":
        return f"`{key}.kind`: Expected one of {', '.join(TARGET_KINDS)}, but there is none."
    if kind == "missing":
        return f"`{key}`: Expected this key, but it is missing."
    message = details["msg"].removeprefix("Value error, ")
    if isinstance(details["input"], dict | BaseModel):
        return f"`{key}`: {message}."
    return f"`{key}`: {message}, but got {details['input']!r}."


def _without_tag(location: Sequence[Any]) -> list[Any]:
    """Drop the union's tag, which pydantic puts after the target's name."""
    if len(location) > 2 and location[0] == "targets":
        return [*location[:2], *location[3:]]
    return list(location)


def _known_keys(key_path: Sequence[Any], content: Mapping[str, Any]) -> list[str]:
    """Return the keys that might have stood where the last one of ``key_path`` stands."""
    model: type[BaseModel] = Description
    if key_path[0] == "image":
        model = ImageColumn
    elif key_path[0] == "targets":
        model = _COLUMNS[content["targets"][key_path[1]]["kind"]]
    return [field.alias or name for name, field in model.model_fields.items()]
