"""A recipe for each group's network."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from lomt.atomic_file import write_text_atomically
from lomt.grouping import Grouping
from lomt.recipe import Recipe, parse_recipe

__all__ = ["group_recipe", "network_text", "recipe_for", "write_recipes"]


def group_recipe(recipe: Recipe, tasks: Sequence[str], number: int) -> dict[str, Any]:
    """Return the recipe of one group's network as plain values, complete and valid.

    Args:
        recipe: Of all tasks.
        tasks: Names of those its network is trained on.
        number: Of the group, from 1; it ends the name.
    """
    content = recipe_for(recipe, tasks)
    content["name"] = f"{recipe.name}_{number}"
    return content


def recipe_for(recipe: Recipe, tasks: Sequence[str]) -> dict[str, Any]:
    """Return the recipe of a part of its tasks, without a block `group`, as plain values, complete and valid.

    Args:
        recipe: Of all tasks.
        tasks: Names of those that stay.
    """
    content = recipe.model_dump(mode="json")
    del content["group"]
    if recipe.target not in tasks:
        content["target"] = None
    if recipe.finetune is not None and (recipe.finetune.target or recipe.target) not in tasks:
        content["finetune"] = None
    if recipe.add is not None and recipe.add.task not in tasks:
        content["add"]["task"] = None
    content["tasks"] = {name: content["tasks"][name] for name in recipe.tasks if name in tasks}
    points = content["rewire"]["branch_points"]
    if points is not None:
        content["rewire"]["branch_points"] = {name: points[name] for name in content["tasks"]}
    for stage, block in (("rewire", recipe.rewire), ("prune", recipe.prune)):
        if block is not None and block.distill is not None:
            weights = block.distill.weights
            content[stage]["distill"]["weights"] = {t: w for t, w in weights.items() if t in tasks}
    return content


def network_text(served: Sequence[str], helpers: Sequence[str]) -> str:
    """Return a network's tasks as a user reads them.

    Args:
        served: Tasks for which the network is used.
        helpers: Further tasks on which it is trained.
    """
    return ", ".join(served) + (f" (trained on {', '.join(helpers)} as well)" if helpers else "")


def write_recipes(recipe: Recipe, grouping: Grouping, folder: Path) -> tuple[Path, ...]:
    """Write one file a network and return their paths.

    Args:
        recipe: Of all tasks.
        grouping: Which tasks go together.
        folder: Where the files go.
    """
    paths = []
    for number, (served, helpers) in enumerate(grouping.networks, 1):
        content = group_recipe(recipe, [*served, *helpers], number)
        parse_recipe(content, source=content["name"], check_names=False)
        path = folder / f"{content['name']}.yaml"
        what = network_text(served, helpers)
        heading = f"# One network of {len(grouping.groups)}: {what}.\n#\n#   lomt run {path}\n"
        write_text_atomically(path, heading + yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
        paths.append(path)
    return tuple(paths)
