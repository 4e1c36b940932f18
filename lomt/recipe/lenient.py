"""A recipe with mistakes, as far as it can be read, so that other mistakes are found in the same go."""

from collections.abc import Collection, Mapping
from typing import Any, cast, get_origin

from lomt.recipe.base import Settings
from lomt.recipe.inheritance import KeyPath
from lomt.recipe.keys import child, is_block
from lomt.recipe.settings import Recipe

__all__ = ["read_leniently"]


def read_leniently(resolved: Any, wrong: Collection[KeyPath]) -> Recipe:
    """Build a recipe from what is right in it.

    Args:
        resolved: The recipe after inheritance.
        wrong: Paths of the keys whose values are not to be used.

    Returns:
        A recipe whose wrong or missing values are their defaults, None for keys without a default. It has
        not been validated and serves only to look for further mistakes.
    """
    return cast(Recipe, _read(Recipe, resolved, (), wrong))


def _read(kind: Any, value: Any, path: KeyPath, wrong: Collection[KeyPath]) -> Any:
    if is_block(kind):
        return None if value is None and path not in wrong else _read_block(kind, value, path, wrong)
    if get_origin(kind) is dict and value is not None:
        given = value if isinstance(value, Mapping) else {}
        entries = {key: item for key, item in given.items() if (*path, key) not in wrong}
        return {key: _read(child(kind, key), item, (*path, key), wrong) for key, item in entries.items()}
    return value


def _read_block(kind: type[Settings], value: Any, path: KeyPath, wrong: Collection[KeyPath]) -> Settings:
    given = value if isinstance(value, Mapping) and path not in wrong else {}
    values = {}
    for name, field in kind.model_fields.items():
        here = (*path, name)
        is_wrong = any(bad[: len(here)] == here for bad in wrong)
        below = child(kind, name)
        if name in given and (not is_wrong or is_block(below) or get_origin(below) is dict):
            values[name] = _read(below, given[name], here, wrong)
        elif not field.is_required():
            values[name] = field.get_default(call_default_factory=True)
        else:
            values[name] = _empty(below, here, wrong)
    return kind.model_construct(**values)


def _empty(kind: Any, path: KeyPath, wrong: Collection[KeyPath]) -> Any:
    if is_block(kind):
        return _read_block(kind, {}, path, wrong)
    return {} if get_origin(kind) is dict else None
