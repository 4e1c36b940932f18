"""Which keys a block of the recipe may have."""

from collections.abc import Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from lomt.recipe.base import Settings
from lomt.recipe.settings import Recipe

__all__ = ["child", "is_block", "kind_at", "known_keys"]


def known_keys(path: Sequence[str | int]) -> tuple[str, ...]:
    """Return the keys known in the block at `path`, none where keys are free or `path` is no block."""
    kind = kind_at(path)
    return tuple(kind.model_fields) if is_block(kind) else ()


def kind_at(path: Sequence[str | int]) -> Any:
    """Return the type of the value at `path`, without its `None`, or None for an unknown key."""
    kind: Any = Recipe
    for key in path:
        kind = child(kind, str(key))
    return kind


def child(kind: Any, key: str) -> Any:
    """Return the type below `kind` at `key`, without its `None`, or None where there is none."""
    if is_block(kind):
        return _without_none(kind.model_fields[key].annotation) if key in kind.model_fields else None
    return get_args(kind)[1] if get_origin(kind) is dict else None


def is_block(kind: Any) -> bool:
    """Tell whether `kind` is a block of named keys."""
    return isinstance(kind, type) and issubclass(kind, Settings)


def _without_none(annotation: Any) -> Any:
    if get_origin(annotation) not in (Union, UnionType):
        return annotation
    rest = [part for part in get_args(annotation) if part is not NoneType]
    inner = rest[0] if len(rest) == 1 else annotation
    return get_args(inner)[0] if get_origin(inner) is Annotated else inner
