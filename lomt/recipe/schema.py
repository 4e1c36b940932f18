"""The JSON schema of a recipe, for editors."""

from typing import Any

from lomt.recipe.settings import Recipe

__all__ = ["recipe_schema"]

_INHERITING = {
    "LocateSettings": "train",
    "RewireSettings": "train",
    "PruneSettings": "train",
    "AddSettings": "train",
    "TaskSettings": "decoder",
}


def recipe_schema() -> dict[str, Any]:
    """Return the JSON schema of recipe files, with titles, descriptions and defaults.

    Blocks that inherit need no key of their own: the schema describes what may be written, not the
    recipe with everything filled in.
    """
    schema = Recipe.model_json_schema()
    blocks = schema["$defs"]
    for name in list(blocks):
        blocks[f"Partial{name}"] = _partial(blocks[name])
    for name, key in _INHERITING.items():
        _inherit(blocks[name], key)
    _allow_short_form(blocks["ModelSettings"])
    _inherit(schema, "locate", partial=False)
    _inherit(schema, "rewire", partial=False)
    schema["$defs"] = _reachable(schema)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _allow_short_form(model: dict[str, Any]) -> None:
    """Let `backbone` also be the name of a module or a list of such."""
    backbone = model["properties"]["backbone"]
    whole = {key: backbone.pop(key) for key in ("$ref", "allOf") if key in backbone}
    names: list[dict[str, Any]] = [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}, "minItems": 1},
    ]
    backbone["anyOf"] = [whole, *names]


def _partial(block: dict[str, Any]) -> dict[str, Any]:
    """Copy a block in which no key is needed and what is left out is inherited, at every depth."""
    changed: dict[str, Any] = _renamed(block)
    changed.pop("required", None)
    for entry in changed.get("properties", {}).values():
        entry.pop("default", None)
    return changed


def _inherit(block: dict[str, Any], key: str, partial: bool = True) -> None:
    entry = dict(block["properties"][key])
    entry.pop("default", None)
    block["properties"][key] = _renamed(entry) if partial else entry
    block["required"] = [name for name in block.get("required", []) if name != key]


def _renamed(node: Any) -> Any:
    if isinstance(node, dict):
        return {
            key: value.replace("#/$defs/", "#/$defs/Partial") if key == "$ref" else _renamed(value)
            for key, value in node.items()
        }
    return [_renamed(value) for value in node] if isinstance(node, list) else node


def _reachable(schema: dict[str, Any]) -> dict[str, Any]:
    """Keep the definitions that something refers to."""
    blocks, found = schema["$defs"], {}
    waiting = _references({key: value for key, value in schema.items() if key != "$defs"})
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = blocks[name]
            waiting |= _references(blocks[name])
    return dict(sorted(found.items()))


def _references(node: Any) -> set[str]:
    if isinstance(node, dict):
        own = {node["$ref"].rsplit("/", 1)[-1]} if "$ref" in node else set()
        return own.union(*(_references(value) for value in node.values()))
    return set().union(*(_references(value) for value in node)) if isinstance(node, list) else set()
