"""Blocks that only say what differs from another one."""

from collections.abc import Mapping
from typing import Any

from lomt.recipe.base import IMAGE_KINDS

__all__ = ["has_key", "merge", "resolve", "source_of"]

_STAGES_WITH_TRAINING = ("locate", "rewire", "sparsify", "prune", "finetune", "add")
_OPTIONAL_STAGES = ("sparsify", "prune", "finetune", "add")

KeyPath = tuple[str | int, ...]


def resolve(raw: Any) -> Any:
    """Fill in what blocks inherit and drop empty top-level blocks; leave what is malformed for validation.

    Args:
        raw: The recipe as read from YAML; not modified.

    Returns:
        A recipe in which every stage's `train` and every task's `decoder` are complete.
    """
    if not isinstance(raw, Mapping):
        return raw
    recipe = {key: value for key, value in raw.items() if value is not None}
    for stage in _STAGES_WITH_TRAINING:
        if stage in _OPTIONAL_STAGES and stage not in recipe:
            continue
        recipe[stage] = _inherit(recipe.get(stage, {}), "train", recipe.get("train"))
    if isinstance(recipe.get("model"), Mapping):
        recipe["model"] = _long_form(recipe["model"])
    if isinstance(recipe.get("tasks"), Mapping):
        decoder = recipe["model"].get("decoder") if isinstance(recipe.get("model"), Mapping) else None
        recipe["tasks"] = {name: _inherit_decoder(task, decoder) for name, task in recipe["tasks"].items()}
    return recipe


def merge(base: Any, change: Any) -> Any:
    """Lay `change` over `base`, mapping by mapping; anything that is not a mapping replaces."""
    if not (isinstance(base, Mapping) and isinstance(change, Mapping)):
        return change
    return {**base, **{key: merge(base.get(key), value) for key, value in change.items()}}


def source_of(path: KeyPath) -> KeyPath | None:
    """Return the key from which `path` is inherited when it is not given, None for other keys."""
    if len(path) > 1 and path[0] in _STAGES_WITH_TRAINING and path[1] == "train":
        return path[1:]
    if len(path) > 2 and path[0] == "tasks" and path[2] == "decoder":
        return ("model", *path[2:])
    return None


def has_key(raw: Any, path: KeyPath) -> bool:
    """Tell whether the recipe itself gives a value at `path`."""
    for key in path:
        try:
            raw = raw[key]
        except (KeyError, IndexError, TypeError):
            return False
    return True


def _inherit(block: Any, key: str, base: Any) -> Any:
    if not isinstance(block, Mapping):
        return block
    own = block.get(key)
    merged = base if own is None else merge(base, own)
    rest = {name: value for name, value in block.items() if name != key}
    return rest if merged is None else {**rest, key: merged}


def _long_form(model: Mapping[Any, Any]) -> dict[Any, Any]:
    """Write out `backbone: encoder` and `backbone: [encoder, neck]`."""
    backbone = model.get("backbone")
    if isinstance(backbone, str):
        return {**model, "backbone": {"path": [backbone]}}
    return {**model, "backbone": {"path": backbone}} if isinstance(backbone, list) else dict(model)


def _inherit_decoder(task: Any, decoder: Any) -> Any:
    if isinstance(task, Mapping) and task.get("kind") in IMAGE_KINDS:
        decoder = {**(decoder if isinstance(decoder, Mapping) else {}), "kind": "classifier"}
    return _inherit(task, "decoder", decoder)
