"""From a file, or a shipped name, to a validated recipe or every mistake in it."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lomt.errors import RecipeError, UnknownNameError
from lomt.recipe.checks import find_contradictions
from lomt.recipe.inheritance import resolve
from lomt.recipe.lenient import read_leniently
from lomt.recipe.names import find_unknown_names
from lomt.recipe.overrides import apply_overrides
from lomt.recipe.problems import Problem, from_validation, own_problems, show
from lomt.recipe.settings import Recipe
from lomt.recipe.shipped import shipped_paths
from lomt.recipe.yaml_text import YamlProblem, read_yaml

__all__ = ["load_recipe", "parse_recipe"]


def load_recipe(
    source: str | os.PathLike[str], overrides: Sequence[str] = (), *, check_names: bool = True
) -> Recipe:
    """Read a recipe and find every mistake in it at once; no data and no device is touched.

    Args:
        source: Path of a YAML file, or the name of a shipped recipe.
        overrides: `key.path=value` with values in YAML, applied in order before validation.
        check_names: Also look up losses, targets, backbone and layers in the libraries that know them, which
            imports torch and timm (some seconds).

    Returns:
        The recipe with everything filled in.

    Raises:
        UnknownNameError: If `source` is neither a file nor a shipped name.
        RecipeError: If the file is missing or no YAML, or the recipe has mistakes.

    Example:
        >>> recipe = load_recipe("rooms_demo", ["train.epochs=1"], check_names=False)
        >>> recipe.train.epochs
        1
    """
    return parse_recipe(
        _read_file(_find(source)), overrides, source=os.fspath(source), check_names=check_names
    )


def parse_recipe(
    raw: Any, overrides: Sequence[str] = (), *, source: str = "(given as values)", check_names: bool = True
) -> Recipe:
    """Validate a recipe that is already a mapping; see `load_recipe`.

    Args:
        raw: The recipe as YAML would give it; not modified.
        overrides: As in `load_recipe`.
        source: What messages call the recipe.
        check_names: As in `load_recipe`.

    Raises:
        RecipeError: If the recipe or an override has mistakes.
    """
    if not isinstance(raw, Mapping):
        raise RecipeError(source, [f"expected a mapping of keys, but got {show(raw)}."])
    raw, problems = apply_overrides(dict(raw), overrides)
    resolved = resolve(raw)
    recipe, found = _validate(resolved)
    found += [problem for problem in _further(recipe, check_names) if not _is_known(problem, found)]
    if problems or found:
        raise RecipeError(source, [str(problem) for problem in [*problems, *own_problems(found, raw)]])
    return recipe


def _read_file(path: Path) -> Any:
    if not path.is_file():
        what = "a directory" if path.is_dir() else "no such file"
        raise RecipeError(str(path), [f"expected a YAML file, but there is {what}."])
    try:
        return read_yaml(path.read_text(encoding="utf-8"))
    except YamlProblem as error:
        raise RecipeError(str(path), [f"{error}."]) from error
    except UnicodeDecodeError as error:
        raise RecipeError(str(path), [f"expected UTF-8 text, but byte {error.start} is none."]) from error


def _find(source: str | os.PathLike[str]) -> Path:
    path = Path(source)
    looks_like_path = path.suffix in (".yaml", ".yml") or path.name != os.fspath(source)
    if looks_like_path or path.is_file():
        return path
    shipped = shipped_paths()
    if path.name not in shipped:
        raise UnknownNameError("recipe", path.name, shipped)
    return shipped[path.name]


def _validate(resolved: Any) -> tuple[Recipe, list[Problem]]:
    try:
        return Recipe.model_validate(resolved), []
    except ValidationError as error:
        found = from_validation(error)
        return read_leniently(resolved, {problem.path for problem in found}), found


def _further(recipe: Recipe, check_names: bool) -> Iterator[Problem]:
    yield from find_contradictions(recipe)
    if check_names:
        yield from find_unknown_names(recipe)


def _is_known(problem: Problem, found: Sequence[Problem]) -> bool:
    """Tell whether validation already complains about the key, about one above it, or about one it rests on."""
    return any(
        problem.path[: len(known.path)] == known.path or known.path in problem.rests_on for known in found
    )
