"""Changes from the command line: `train.epochs=3`."""

from collections.abc import Iterable, Sequence
from typing import Any

from lomt.recipe.keys import child, is_block, kind_at
from lomt.recipe.problems import Problem, did_you_mean
from lomt.recipe.yaml_text import YamlProblem, read_yaml

__all__ = ["apply_overrides"]


def apply_overrides(raw: dict[str, Any], overrides: Iterable[str]) -> tuple[dict[str, Any], list[Problem]]:
    """Set keys of a recipe.

    Args:
        raw: The recipe as read; not modified.
        overrides: `key.path=value`, the value in YAML; later ones win.

    Returns:
        The changed recipe, and what is wrong with the overrides themselves. Whether keys and values fit the
        recipe is left to its validation.
    """
    problems = []
    for text in overrides:
        try:
            path, value = _parse(text)
            raw = _set(raw, path, value, path)
        except ValueError as error:
            problems.append(Problem((), f"--set {text}: {error}"))
    return raw, problems


def _parse(text: str) -> tuple[list[str], Any]:
    key, equals, value = text.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path):
        raise ValueError("expected key=value, for example train.epochs=3.")
    try:
        return path, read_yaml(value)
    except YamlProblem as error:
        raise ValueError(f"the value is no YAML: {error}.") from error


def _set(raw: Any, path: Sequence[str], value: Any, whole: Sequence[str]) -> Any:
    """Copy `raw` with the value at `path`, which is the end of the path `whole`."""
    key, rest = path[0], path[1:]
    here = list(whole[: len(whole) - len(rest)])
    if rest and key not in raw:
        _refuse_new_entry(raw, here)
    below = raw.get(key)
    if rest and below is None:
        below = {}
    if rest and not isinstance(below, dict):
        raise ValueError(f"`{'.'.join(here)}` is no block, so it has no key `{rest[0]}`.")
    return {**raw, key: _set(below, rest, value, whole) if rest else value}


def _refuse_new_entry(raw: dict[str, Any], here: Sequence[str]) -> None:
    """Refuse to reach into a task that is not there; a new one would be told as lacking its other keys."""
    parent = kind_at(here[:-1])
    is_free_name = not is_block(parent) and is_block(child(parent, here[-1]))
    if is_free_name and raw:
        known = ", ".join(map(str, raw))
        near = did_you_mean(here[-1], map(str, raw)) or "."
        raise ValueError(f"there is no `{'.'.join(here)}`{near} Known are {known}.")
