"""Stage ``finetune``: one task alone, in the parts of the network that matter to it; all else stays as it is."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lomt.atomic_file import write_atomically
from lomt.models import TaskNetwork, save_model
from lomt.pipeline.context import Context, wait_for_all
from lomt.pipeline.loss_batches import FirstBatches
from lomt.pipeline.run_directory import StageFolder
from lomt.pruning.origin import origin_of
from lomt.pruning.storage import load, save
from lomt.pruning.task_part import select_task_part
from lomt.recipe import Recipe
from lomt.recipe.finetune_settings import FinetuneSettings
from lomt.structure import trace_structure
from lomt.training import updating_only

__all__ = ["FINETUNED", "run_finetune", "tuned_network", "tuned_task"]

FINETUNED = "finetuned"
"""Folder of the network that went on for the target."""

_MASKS, _SELECTION = "masks.safetensors", "selection.json"


def run_finetune(context: Context) -> None:
    """Train one task alone in a part of the network and judge all tasks on the test split; writes ``finetuned/``.

    Without a ``finetune`` block in the recipe nothing is done.
    """
    settings = context.recipe.finetune
    if settings is None:
        return
    network = tuned_network(context.recipe)
    folder = context.folder(FINETUNED, context.settings_key("finetune"), context.keys[network])
    if not folder.is_finished:
        _Finetuning(context, settings, folder).run()


def tuned_network(recipe: Recipe) -> str:
    """Return the folder of the network that goes on: the recipe's choice, or the last one that is made."""
    settings = recipe.finetune
    if settings is not None and settings.network is not None:
        return settings.network
    if recipe.prune is not None:
        return "pruned"
    return "rewired" if recipe.sparsify is None else "sparse"


def tuned_task(recipe: Recipe) -> str:
    """Return the task that the stage goes on for."""
    chosen = recipe.finetune.target if recipe.finetune is not None else None
    task = chosen or recipe.target
    assert task is not None, "validated"
    return task


@dataclass(frozen=True)
class _Finetuning:
    """One finetune stage.

    Args:
        context: Of the run.
        settings: The recipe's block.
        folder: Of the stage.
    """

    context: Context
    settings: FinetuneSettings
    folder: StageFolder

    def run(self) -> None:
        """Choose, train and judge; a killed run goes on with the choice that it has made."""
        context, train, tasks = self.context, self.settings.train, self.context.parts.tasks
        self._choose_once()
        selection = self.folder.read_json(_SELECTION)
        counts = selection["parameters"]
        context.progress.message(
            f"finetune: {tuned_network(context.recipe)} network for {self._target}, "
            f"{counts['updated'] / counts['of']:.1%} of its parameters may change"
        )
        model = self._network()
        torch.manual_seed(context.recipe.seed)
        masks = load_file(self.folder.path / _MASKS)
        with _only(model, self._target), updating_only(model, _present(masks, model)) as update:
            own = {self._target: tasks[self._target]}
            context.trainer(model, own, train, self.folder.path, regularizer=update).fit()
        judge = context.trainer(model, tasks, train, self.folder.path / "test")
        result = context.evaluate(judge, tasks, train, "fine-tuned network")
        if context.is_writer:
            save(model, self.folder.path) if origin_of(model).plans else save_model(model, self.folder.path)
        self.folder.write_json(
            "metrics.json",
            {
                "split": "test",
                "network": tuned_network(context.recipe),
                "branch_points": model.branch_points,
                "metrics": result.metrics,
                "losses": result.losses,
                "updated": counts,
            },
        )
        self.folder.finish()
        if context.is_writer:
            (self.folder.path / _MASKS).unlink(missing_ok=True)

    @property
    def _target(self) -> str:
        return tuned_task(self.context.recipe)

    def _network(self) -> TaskNetwork:
        model = load(self.context.directory.path / tuned_network(self.context.recipe))
        assert isinstance(model, TaskNetwork)
        return model

    def _choose_once(self) -> None:
        """Let one process choose: all have to go on with the same part."""
        wait_for_all()
        if self.context.is_writer and not (self.folder.path / _SELECTION).exists():
            self._choose()
        wait_for_all()

    def _choose(self) -> None:
        settings, context = self.settings, self.context
        device = context.accelerator(settings.train).device
        model = self._network().to(device)
        batches = FirstBatches(context.parts, settings.train, device)

        def losses(network: torch.nn.Module) -> Iterator[dict[str, Tensor]]:
            """Yield the target's own losses."""
            for own in batches.losses(settings.loss_batches, network):
                yield {self._target: own[self._target]}

        structure = trace_structure(model, batches.example())
        part = select_task_part(structure, model, losses, self._target, settings.share)
        sparsify = context.recipe.sparsify
        has_zeros = sparsify is not None and sparsify.granularity == "unstructured"
        if has_zeros and tuned_network(context.recipe) == "sparse":
            part = part.without_zeros(model)
        masks = {name: mask.cpu().contiguous() for name, mask in part.masks.items()}
        write_atomically(self.folder.path / _MASKS, partial(save_file, masks))
        self.folder.write_json(_SELECTION, {"share": settings.share, **part.to_dict(model)})


def _present(masks: dict[str, Tensor], model: TaskNetwork) -> dict[str, Tensor]:
    """Return the masks of what the model has while other tasks' decoders are out."""
    return {name: mask for name, mask in masks.items() if name in model.state_dict()}


@contextmanager
def _only(model: TaskNetwork, task: str) -> Iterator[None]:
    """Take the other tasks' decoders out inside the context: they would only cost time."""
    whole = dict(model.decoders.items())
    try:
        for name in whole:
            if name != task:
                del model.decoders[name]
        yield
    finally:
        model.decoders.clear()
        model.decoders.update(whole)
