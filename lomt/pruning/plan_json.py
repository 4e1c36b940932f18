"""Pruning plans as JSON: compact, readable, and checked key by key when they are read."""

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from lomt.errors import ArtifactError
from lomt.pruning.plan import AttributeChange, ComponentChange, PruningPlan, Replacement, Step
from lomt.pruning.runs import format_runs, parse_runs

__all__ = ["SCHEMA", "plan_from_dict", "plan_to_dict"]

SCHEMA = 1
"""Version of the description; a plan with another one is refused."""

TOTALS = ("params_before", "params_after", "macs_before", "macs_after")

_Value = TypeVar("_Value")


def plan_to_dict(plan: PruningPlan) -> dict[str, Any]:
    """Describe a plan; slices that keep the same positions are listed together, as `tensor:dimension`."""
    return {
        "schema": SCHEMA,
        **{name: getattr(plan, name) for name in TOTALS},
        "steps": [_step_to_dict(step) for step in plan.steps],
        "components": [
            {"name": c.name, "channels": list(c.channels), "params": list(c.params), "macs": list(c.macs)}
            for c in plan.components
        ],
        "counts": dict(plan.counts),
        "protected": dict(plan.protected),
        "keep": {name: format_runs(positions) for name, positions in plan.keep.items()},
        "replaced": [{"module": r.module, "kind": r.kind, "options": dict(r.options)} for r in plan.replaced],
        "attributes": [
            {"module": a.module, "attribute": a.attribute, "index": a.index, "value": a.value}
            for a in plan.attributes
        ],
        "slices": _slices_to_list(plan.tensors),
    }


def plan_from_dict(values: Any) -> PruningPlan:
    """Read the result of :func:`plan_to_dict`; see :meth:`lomt.pruning.plan.PruningPlan.from_dict`."""
    if isinstance(values, Mapping) and "schema" in values and values["schema"] != SCHEMA:
        raise ArtifactError(
            f"Expected a pruning plan of schema {SCHEMA}, but got {values['schema']!r}. "
            "Read it with the version of lomt that wrote it."
        )
    _check_keys("plan", values, ("schema", *TOTALS, *_READERS))
    parts: dict[str, Any] = {name: _natural(f"plan.{name}", values[name]) for name in TOTALS}
    parts.update({name: read(f"plan.{name}", values[name]) for name, read in _READERS.items()})
    plan = PruningPlan(tensors=parts.pop("slices"), **parts)
    _check_kept(plan)
    return plan


def _step_to_dict(step: Step) -> dict[str, Any]:
    changes = {name: float(value) for name, value in step.output_change.items()}
    return {"kind": step.kind, "what": step.what, "output_change": changes, "removed": dict(step.removed)}


def _slices_to_list(tensors: Mapping[str, Mapping[int, tuple[int, ...]]]) -> list[dict[str, Any]]:
    together: dict[tuple[int, ...], list[str]] = {}
    for name, kept in tensors.items():
        for dim, positions in kept.items():
            together.setdefault(tuple(positions), []).append(f"{name}:{dim}")
    return [{"kept": format_runs(positions), "of": names} for positions, names in together.items()]


def _check_kept(plan: PruningPlan) -> None:
    for name, kept in plan.keep.items():
        if name not in plan.counts:
            raise _unexpected(f"plan.keep.{name}", "to be among `plan.counts`", "a name that is not")
        if kept and kept[-1] >= plan.counts[name]:
            raise _unexpected(
                f"plan.keep.{name}", f"to keep some of {plan.counts[name]} channels", f"channel {kept[-1]}"
            )


def _steps(place: str, values: Any) -> tuple[Step, ...]:
    return tuple(_step(f"{place}[{i}]", value) for i, value in enumerate(_list(place, values)))


def _step(place: str, value: Any) -> Step:
    _check_keys(place, value, ("kind", "what", "output_change", "removed"))
    if value["kind"] not in ("exact", "lossy"):
        raise _unexpected(f"{place}.kind", "to be exact or lossy", value["kind"])
    return Step(
        value["kind"],
        _text(f"{place}.what", value["what"]),
        _mapping(f"{place}.output_change", value["output_change"], _number),
        _mapping(f"{place}.removed", value["removed"], _natural),
    )


def _components(place: str, values: Any) -> tuple[ComponentChange, ...]:
    found = []
    for i, value in enumerate(_list(place, values)):
        here = f"{place}[{i}]"
        _check_keys(here, value, ("name", "channels", "params", "macs"))
        pairs = [_pair(f"{here}.{key}", value[key]) for key in ("channels", "params", "macs")]
        found.append(ComponentChange(_text(f"{here}.name", value["name"]), *pairs))
    return tuple(found)


def _replaced(place: str, values: Any) -> tuple[Replacement, ...]:
    found = []
    for i, value in enumerate(_list(place, values)):
        here = f"{place}[{i}]"
        _check_keys(here, value, ("module", "kind", "options"))
        options = _mapping(f"{here}.options", value["options"], lambda _, option: option)
        module, kind = (_text(f"{here}.{key}", value[key]) for key in ("module", "kind"))
        found.append(Replacement(module, kind, options))
    return tuple(found)


def _attributes(place: str, values: Any) -> tuple[AttributeChange, ...]:
    return tuple(_attribute(f"{place}[{i}]", value) for i, value in enumerate(_list(place, values)))


def _attribute(place: str, value: Any) -> AttributeChange:
    _check_keys(place, value, ("module", "attribute", "index", "value"))
    name = _text(f"{place}.attribute", value["attribute"])
    if not name.isidentifier() or name.startswith("__"):
        raise _unexpected(f"{place}.attribute", "to be the name of an attribute", name)
    index = None if value["index"] is None else _natural(f"{place}.index", value["index"])
    number = value["value"]
    if type(number) is not int:
        raise _unexpected(f"{place}.value", "to be an integer", number)
    return AttributeChange(_text(f"{place}.module", value["module"]), name, index, number)


def _slices(place: str, values: Any) -> dict[str, dict[int, tuple[int, ...]]]:
    tensors: dict[str, dict[int, tuple[int, ...]]] = {}
    for i, value in enumerate(_list(place, values)):
        here = f"{place}[{i}]"
        _check_keys(here, value, ("kept", "of"))
        kept = _runs(f"{here}.kept", value["kept"])
        for text in _list(f"{here}.of", value["of"]):
            name, colon, dim = _text(f"{here}.of", text).rpartition(":")
            if not (colon and name and dim.isdecimal() and dim.isascii()):
                raise _unexpected(
                    f"{here}.of", "to be tensors with a dimension, such as conv1.weight:0", text
                )
            if int(dim) in tensors.setdefault(name, {}):
                raise _unexpected(f"{here}.of", "to name each slice once", text)
            tensors[name][int(dim)] = kept
    return tensors


_READERS: dict[str, Callable[[str, Any], Any]] = {
    "steps": _steps,
    "components": _components,
    "counts": lambda place, value: _mapping(place, value, _natural),
    "protected": lambda place, value: _mapping(place, value, _text),
    "keep": lambda place, value: _mapping(place, value, _runs),
    "replaced": _replaced,
    "attributes": _attributes,
    "slices": _slices,
}


def _mapping(place: str, value: Any, read: Callable[[str, Any], _Value]) -> dict[str, _Value]:
    if not isinstance(value, Mapping):
        raise _unexpected(place, "to have keys", value)
    return {_text(place, key): read(f"{place}.{key}", entry) for key, entry in value.items()}


def _list(place: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise _unexpected(place, "to be a list", value)
    return value


def _pair(place: str, value: Any) -> tuple[int, int]:
    entries = _list(place, value)
    if len(entries) != 2:
        raise _unexpected(place, "to be two numbers", value)
    return _natural(place, entries[0]), _natural(place, entries[1])


def _natural(place: str, value: Any) -> int:
    if type(value) is not int or value < 0:
        raise _unexpected(place, "to be an integer of at least 0", value)
    return value


def _number(place: str, value: Any) -> float:
    if type(value) not in (int, float) or (value < 0 and not math.isnan(value)):
        raise _unexpected(place, "to be a number of at least 0", value)
    return float(value)


def _text(place: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _unexpected(place, "to be a text", value)
    return value


def _runs(place: str, value: Any) -> tuple[int, ...]:
    try:
        return parse_runs(_text(place, value))
    except ValueError as error:
        raise ArtifactError(f"In the pruning plan, at `{place}`: {error}") from error


def _check_keys(place: str, value: Any, keys: Collection[str]) -> None:
    if not isinstance(value, Mapping) or set(value) != set(keys):
        found = ", ".join(map(str, value)) if isinstance(value, Mapping) else value
        raise _unexpected(place, f"to have the keys {', '.join(keys)}", found)


def _unexpected(place: str, expectation: str, value: Any) -> ArtifactError:
    text = value if isinstance(value, str) else repr(value)
    shown = text if len(text) <= 200 else f"{text[:200]}..."
    return ArtifactError(f"Expected `{place}` {expectation}, but got {shown}.")
