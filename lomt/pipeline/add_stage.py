"""`lomt add`: one more task for a trained network, whose other tasks answer as before."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lomt.deploy.torch_macs import count_torch_macs
from lomt.errors import TrainingError
from lomt.models import (
    Backbone,
    MultiTaskModel,
    NewTask,
    PathChoice,
    choose_path,
    extend,
    new_task_network,
    save_model,
)
from lomt.pipeline.add_network import GivenNetwork, check_recipe, check_tasks, chosen_task, open_network
from lomt.pipeline.add_summary import AddSummary
from lomt.pipeline.context import Context, open_context, wait_for_all
from lomt.pipeline.group_recipes import recipe_for
from lomt.pipeline.onnx_quality import samples
from lomt.pipeline.parts import decoder_spec
from lomt.pipeline.run_directory import StageFolder
from lomt.pipeline.skipped import note_skipped
from lomt.recipe import AddSettings, Recipe, parse_recipe
from lomt.training import AdaptiveBackbone, Evaluation, Progress, ScorePenalty

__all__ = ["ADDED", "AddSummary", "add"]

ADDED = "added"
"""Folder of the network with the new task."""

_IMAGES = 4
_TOLERANCE = 1e-4  # relative; what another memory layout makes of a sum


def add(
    recipe: Recipe, out: Path, *, network: Path, task: str | None = None, progress: Progress | None = None
) -> AddSummary:
    """Teach a trained network one more task; writes ``added/`` into the run directory.

    Args:
        recipe: Validated; describes data and the new task. Tasks of the network that it has as well are judged before
            and after, others of its tasks are left out.
        out: The run directory, not that of the network.
        network: Folder of a saved network; only read.
        task: The task to add; the recipe's `add.task` without it.
        progress: Told what runs.

    Raises:
        LomtError: The network is missing or of a kind that cannot be extended, does not fit the recipe, or has the
            task; or as the stages of `lomt run`.
    """
    given = open_network(network)
    name = chosen_task(recipe, task, given)
    check_recipe(recipe, given, out)
    settings = recipe.add or AddSettings(train=recipe.train)
    settings = settings.model_copy(update={"task": name})
    path = choose_path(given.model.spec, settings.branch_point)
    context = open_context(_narrowed(recipe, settings, given), out, progress)
    check_tasks(context.parts, given)
    folder = context.folder(ADDED, context.settings_key("add"), given.key)
    if not folder.is_finished:
        _Addition(context, settings, folder, given, path).run()
    note_skipped(context)
    wait_for_all()
    infos = {name: task.metrics.infos for name, task in context.parts.tasks.items()}
    return AddSummary(
        folder.read_json("sharing.json"), folder.read_json("metrics.json"), infos, str(folder.path)
    )


def _narrowed(recipe: Recipe, settings: AddSettings, given: GivenNetwork) -> Recipe:
    """Leave out the tasks that the extended network does not have."""
    tasks = [name for name in recipe.tasks if name in given.model.decoders or name == settings.task]
    content = recipe_for(recipe.model_copy(update={"add": settings}), tasks)
    return parse_recipe(content, source=recipe.name, check_names=False)


@dataclass(frozen=True)
class _Addition:
    """One new task.

    Args:
        context: Of the run.
        settings: Complete, with the task.
        folder: Of the stage.
        given: The network that is extended.
        path: What the task may change.
    """

    context: Context
    settings: AddSettings
    folder: StageFolder
    given: GivenNetwork
    path: PathChoice

    def run(self) -> None:
        """Train, merge and judge; a killed run goes on from its checkpoint."""
        context, network = self.context, self.given.model
        context.progress.message(
            f"add: {self._name} to {self.given.path}, {len(self.path.layers)} layers up to {self.path.branch_point} "
            "may change"
        )
        alone, backbone = self._trained()
        layers = backbone.own_layers()
        extended = extend(network, self._task, alone.decoders[self._name], backbone.own_weights(), layers)
        images = samples(context.parts, _IMAGES)
        _check_same(network, alone, extended, self._name, context.parts.prepared(images))
        sharing = self._sharing(backbone, extended, images[:1])
        if context.is_writer:
            save_model(extended, self.folder.path)
        before, after = self._judge(network, "network before"), self._judge(extended, "extended network")
        self.folder.write_json("sharing.json", sharing)
        self.folder.write_json(
            "metrics.json",
            {
                "split": "test",
                "task": self._name,
                "network": str(self.given.path),
                "branch_points": extended.branch_points,
                "metrics": after.metrics,
                "losses": after.losses,
                "before": {"metrics": before.metrics, "losses": before.losses},
                "not_judged": [name for name in network.decoders if name not in context.parts.tasks],
            },
        )
        self.folder.finish()

    @property
    def _name(self) -> str:
        assert self.settings.task is not None, "chosen"
        return self.settings.task

    @property
    def _task(self) -> NewTask:
        task = self.context.parts.tasks[self._name]
        decoder = decoder_spec(self.context.recipe.tasks[self._name].decoder, task)
        return NewTask(self._name, self.path.branch_point, decoder, task.out_channels, task.is_dense)

    def _trained(self) -> tuple[MultiTaskModel, AdaptiveBackbone]:
        context, settings, name = self.context, self.settings, self._name
        torch.manual_seed(context.recipe.seed)
        alone = new_task_network(self.given.model, self._task)
        alone.set_output_biases({name: context.parts.output_biases[name]})
        assert isinstance(alone.backbone, Backbone)
        may_change = {layer.name: layer.norm for layer in self.path.layers}
        backbone = AdaptiveBackbone(alone.backbone, may_change, settings.initial_score, settings.threshold)
        alone.backbone = backbone
        penalty = ScorePenalty(backbone.layers.values(), settings.penalty, settings.warmup_epochs)
        own = {name: context.parts.tasks[name]}
        context.trainer(alone, own, settings.train, self.folder.path, regularizer=penalty).fit()
        penalty.detach()
        return alone.cpu().eval(), backbone

    def _judge(self, model: MultiTaskModel, what: str) -> Evaluation:
        context, train = self.context, self.settings.train
        tasks = {name: task for name, task in context.parts.tasks.items() if name in model.decoders}
        if not tasks:
            return Evaluation({}, {})
        judge = context.trainer(model, tasks, train, self.folder.path / "test")
        return context.evaluate(judge, tasks, train, what)

    def _sharing(
        self, backbone: AdaptiveBackbone, extended: MultiTaskModel, images: Tensor
    ) -> dict[str, Any]:
        network, settings = self.given.model, self.settings
        layers = [
            {
                "layer": layer.name,
                "norm": layer.norm,
                "score": float(backbone.layers[layer.name].score.detach()),
                "changed": backbone.layers[layer.name].is_changed,
            }
            for layer in self.path.layers
        ]
        first = next((own["layer"] for own in layers if own["changed"]), None)
        decoder = _parameters(extended.decoders[self._name])
        counts = {"network": _parameters(network), "extended": _parameters(extended)}
        macs = {"network": count_torch_macs(network, images), "extended": count_torch_macs(extended, images)}
        return {
            "task": self._name,
            "branch_point": self.path.branch_point,
            "penalty": settings.penalty,
            "threshold": settings.threshold,
            "first_changed": first,
            "parameters": {**_added(counts), "decoder": decoder},
            "macs": _added(macs),
            "layers": layers,
            "always_shared": list(self.path.fixed),
        }


def _added(counts: Mapping[str, int]) -> dict[str, Any]:
    """Add what the new task costs, and its share of what the network costs without it."""
    added = counts["extended"] - counts["network"]
    return {**counts, "added": added, "share": added / counts["network"]}


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@torch.no_grad()
def _check_same(
    network: MultiTaskModel, alone: MultiTaskModel, extended: MultiTaskModel, task: str, images: Tensor
) -> None:
    """Make sure that the merged network computes what was trained, and what the network did before.

    Raises:
        TrainingError: It does not.
    """
    old, new, merged = network(images), alone(images)[task], extended(images)
    changed = [name for name, value in old.items() if not torch.equal(value, merged[name])]
    if changed:
        raise TrainingError(
            f"Expected the predictions of {', '.join(f'`{name}`' for name in changed)} to stay the same, but they do "
            "not. Nothing was written."
        )
    difference = float((merged[task] - new).abs().max())
    if not difference <= _TOLERANCE * max(float(new.abs().max()), 1e-6):
        raise TrainingError(
            f"Expected the merged network to predict task `{task}` as it was trained, but it differs by "
            f"{difference:.3g}: operations in the backbone that change tensors in place cannot be told apart. "
            "Nothing was written; choose another backbone."
        )
