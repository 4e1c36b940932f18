"""What is wrong with a recipe, as sentences that begin with the key."""

import difflib
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from pydantic import ValidationError

from lomt.recipe.inheritance import KeyPath, has_key, source_of
from lomt.recipe.keys import kind_at, known_keys

__all__ = ["Problem", "did_you_mean", "from_validation", "own_problems", "show", "unknown_task"]

_NAME_RULES = {
    r"^[A-Za-z0-9][A-Za-z0-9._-]*$": "letters, digits, `.`, `_` and `-`, a letter or digit first",
    r"^[A-Za-z][A-Za-z0-9_]*$": "letters, digits and `_`, a letter first",
}
_TYPES = {
    "int_type": "an integer",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "model_type": "a mapping",
    "dict_type": "a mapping",
    "list_type": "a list",
    "tuple_type": "a list",
    "finite_number": "a finite number",
}
_FORM = re.compile(r"str|(list|dict)\[.+\]")
"""How pydantic calls a form, in the path of an error, where a value may have several."""
_BOUNDS = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}


@dataclass(frozen=True, order=True)
class Problem:
    """One mistake.

    Args:
        path: Where it is, key by key; positions in lists are integers.
        text: What was expected and what is there.
        rests_on: Keys that were read to find it; where one of them is wrong itself, it may be no mistake.
    """

    path: KeyPath
    text: str
    rests_on: tuple[KeyPath, ...] = field(default=(), compare=False)

    def __str__(self) -> str:
        """Return the sentence, key first."""
        return f"`{'.'.join(map(str, self.path))}`: {self.text}" if self.path else self.text


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `, did you mean ...?` for the nearest known name, or nothing when none is near."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f", did you mean `{close[0]}`?" if close else ""


def unknown_task(path: KeyPath, task: str | None, tasks: Collection[str]) -> Iterator[Problem]:
    """Yield that a task is not among the recipe's; nothing where none is named, or tasks could not be read."""
    if task is not None and tasks and task not in tasks:
        near = did_you_mean(task, tasks) or "."
        yield Problem(path, f"unknown task `{task}`{near} Known are {', '.join(tasks)}.")


def from_validation(error: ValidationError) -> list[Problem]:
    """Put pydantic's findings into words, one problem a key."""
    found: dict[KeyPath, Problem] = {}
    choices: dict[KeyPath, list[Mapping[str, Any]]] = {}
    for detail in error.errors(include_url=False):
        path = tuple(part for part in detail["loc"] if part != "[key]")
        form = next((i for i, part in enumerate(path) if _FORM.fullmatch(str(part))), None)
        if form is not None:
            choices.setdefault(path[:form], []).append({**detail, "loc": path[form + 1 :]})
            continue
        if detail["type"] == "missing" and isinstance(path[-1], int):
            path = path[:-1]  # pydantic names the missing end of a short tuple; the list is what is wrong
            found.setdefault(path, Problem(path, _length(path, detail["input"])))
        else:
            found.setdefault(path, Problem(path, _sentence(path, detail)))
    for path, details in choices.items():
        for problem in _of_several_forms(path, details):
            found.setdefault(problem.path, problem)
    return list(found.values())


def own_problems(problems: Iterable[Problem], raw: Any) -> list[Problem]:
    """Leave out what a block merely inherited from one whose problem is reported already; sort by key.

    Args:
        problems: All that was found in the recipe after inheritance.
        raw: The recipe as written, before inheritance.
    """
    problems = list(problems)
    reported = {problem.path for problem in problems}

    def is_inherited(path: KeyPath) -> bool:
        source = source_of(path)
        if source is None or has_key(raw, path):
            return False
        return any(source[:length] in reported for length in range(1, len(source) + 1))

    return sorted(
        (problem for problem in problems if not is_inherited(problem.path)),
        key=lambda problem: (tuple(map(str, problem.path)), problem.text),
    )


def show(value: Any) -> str:
    """Return a short form of a YAML value for a message."""
    if isinstance(value, Mapping):
        return "a mapping"
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _sentence(path: KeyPath, detail: Mapping[str, Any]) -> str:
    kind, value, limits = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "missing":
        return "a value is needed, but the key is missing."
    if kind == "extra_forbidden":
        known = known_keys(path[:-1])
        return f"unknown key{did_you_mean(str(path[-1]), known) or '.'} Known are {', '.join(known)}."
    if kind == "literal_error":
        return _choice(value, get_args(kind_at(path)))
    if kind in ("too_short", "too_long"):
        return _length(path, value)
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        expected = f"a number of {words} {limits[name]:g}"
    elif kind == "string_pattern_mismatch":
        expected = _NAME_RULES[limits["pattern"]]
    else:
        expected = _TYPES.get(kind) or str(detail["msg"])
    return f"expected {expected}, but got {show(value)}."


def _of_several_forms(path: KeyPath, details: Sequence[Mapping[str, Any]]) -> Iterator[Problem]:
    """Yield what is wrong with a value that may have several forms: with its parts where it has one of them."""
    of_parts = [detail for detail in details if detail["loc"]]
    for detail in of_parts:
        own = (*path, *detail["loc"])
        yield Problem(own, _sentence(own, detail))
    if not of_parts:
        expected = " or ".join(sorted(_TYPES.get(detail["type"], detail["msg"]) for detail in details))
        yield Problem(path, f"expected {expected}, but got {show(details[0]['input'])}.")


def _choice(value: Any, choices: Sequence[Any]) -> str:
    listed = ", ".join(map(str, choices))
    expected = f"one of {listed}" if len(choices) > 1 else listed
    near = did_you_mean(str(value), map(str, choices))
    return f"expected {expected}, but got {show(value)}{near or '.'}"


def _length(path: KeyPath, value: Any) -> str:
    wanted = get_args(kind_at(path)) if isinstance(value, list) else ()
    count = f"{len(wanted)} values" if len(wanted) > 1 else "at least one entry"
    return f"expected {count}, but got {show(value) if value else 'none'}."
