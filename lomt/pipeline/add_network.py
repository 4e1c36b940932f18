"""The network that a task is added to: what it must be, and whether a recipe fits it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lomt.checksum import sha256_of
from lomt.errors import ArtifactError, DataError, LomtError, UnknownNameError
from lomt.models import MultiTaskModel, load_model
from lomt.models.truncate import GraphBackbone
from lomt.pipeline.parts import Parts
from lomt.pipeline.run_directory import read_json
from lomt.pruning.structure_file import is_pruned_model
from lomt.recipe import Recipe, load_recipe

__all__ = ["GivenNetwork", "check_recipe", "check_tasks", "chosen_task", "open_network"]


@dataclass(frozen=True)
class GivenNetwork:
    """A saved network.

    Args:
        path: Its folder.
        model: In eval mode, on the CPU.
        key: What identifies its structure and weights, as plain values.
    """

    path: Path
    model: MultiTaskModel
    key: Any


def open_network(path: Path) -> GivenNetwork:
    """Load the network that a task is added to.

    Raises:
        ArtifactError: There is none, or it is of a kind that no task can be added to.
    """
    structure = path / "structure.json"
    if not structure.is_file():
        what = (
            "is a run directory: name one of its networks" if (path / "recipe.yaml").is_file() else "has none"
        )
        raise ArtifactError(
            f"Expected `--network` to be a folder with a saved network, such as runs/demo/dense, but {path} {what}."
        )
    if is_pruned_model(path):
        raise ArtifactError(
            f"Expected `--network` to be a network as it was trained, but {path} was pruned. Add the task first, to "
            "the network before pruning, and prune afterwards what comes out, with `lomt prune`."
        )
    description = read_json(structure).get("model")
    if isinstance(description, dict) and "factory" in description:
        raise ArtifactError(
            f"Expected `--network` to be built of a timm backbone by lomt, but {path} is of your own model "
            f"`{description['factory']}`. Train the task together with the others instead: name it in their recipe."
        )
    model = load_model(path)
    assert isinstance(model, MultiTaskModel), "it has no factory"
    if not isinstance(model.backbone, GraphBackbone):
        raise ArtifactError(
            f"Expected `--network` to have a backbone that torch.fx can follow, layer by layer, but that of {path}, "
            f"`{model.spec.backbone.name}`, is cut at whole stages only. Choose another backbone."
        )
    return GivenNetwork(path, model, [model.spec.to_dict(), sha256_of(path / "model.safetensors")])


def chosen_task(recipe: Recipe, task: str | None, network: GivenNetwork) -> str:
    """Return the task to add: the one given, or the recipe's.

    Raises:
        LomtError: There is none, the recipe does not know it, or the network has it.
    """
    chosen = task or (recipe.add.task if recipe.add is not None else None)
    if chosen is None:
        raise LomtError(
            "Expected `--task` to say which of the recipe's tasks is added, or `add.task` in the recipe."
        )
    if chosen not in recipe.tasks:
        raise UnknownNameError(f"task of recipe `{recipe.name}`", chosen, recipe.tasks)
    if chosen in network.model.decoders:
        raise ArtifactError(
            f"Expected `--task` to be one that the network does not have, but {network.path} has `{chosen}` already. "
            f"It has {', '.join(network.model.decoders)}."
        )
    return chosen


def check_recipe(recipe: Recipe, network: GivenNetwork, out: Path) -> None:
    """Make sure that images reach the network as those that it was trained on, as far as that is known.

    Args:
        recipe: Of the new task.
        network: The network.
        out: Where the result goes.

    Raises:
        ArtifactError: The recipe's backbone, image size or normalisation is another one, or `out` is where the network
            lies.
    """
    own, run = network.model.spec.backbone, network.path.resolve().parent
    if recipe.model.factory is not None or Parts(recipe).backbone_spec != own:
        raise ArtifactError(
            f"Expected `model.backbone` of recipe `{recipe.name}` to be that of {network.path}, {own}, but it is "
            f"{recipe.model.factory or Parts(recipe).backbone_spec}. The network's own weights are taken."
        )
    if out.resolve() in (run, network.path.resolve()):
        raise ArtifactError(
            f"Expected the run directory to be another one than that of the network, but {out} holds it. "
            "Choose another with --out."
        )
    if (run / "recipe.yaml").is_file():
        _check_images(recipe, load_recipe(str(run / "recipe.yaml"), check_names=False), run)


def check_tasks(parts: Parts, network: GivenNetwork) -> None:
    """Make sure that tasks which recipe and network share are the same ones.

    Raises:
        DataError: The data have another number of classes or channels for one of them.
    """
    spec = network.model.spec
    for name, task in parts.tasks.items():
        if name in spec.decoders and (task.out_channels, task.is_dense) != (
            spec.out_channels[name],
            spec.dense[name],
        ):
            raise DataError(
                f"Expected task `{name}` to have {spec.out_channels[name]} outputs as in {network.path}, but its "
                f"target in the data asks for {task.out_channels}. Leave it out of the recipe, or rename it."
            )


def _check_images(recipe: Recipe, trained: Recipe, run: Path) -> None:
    if recipe.data.size != trained.data.size:
        size, own = ("x".join(map(str, data.size)) for data in (recipe.data, trained.data))
        raise ArtifactError(
            f"Expected `data.size` of recipe `{recipe.name}` to be {own}, with which {run} was trained, but got "
            f"{size}. Give --set 'data.size={list(trained.data.size)}'."
        )
    now = Parts(recipe).normalisation
    then = Parts(recipe.model_copy(update={"data": trained.data})).normalisation
    for name in ("mean", "std"):
        if now[name] != then[name]:
            raise ArtifactError(
                f"Expected `data.{name}` of recipe `{recipe.name}` to be {list(then[name])}, with which {run} was "
                f"trained, but got {list(now[name])}. Give --set 'data.{name}={list(then[name])}'."
            )
