"""Whether a task does better at a finer resolution than that of the layer sparse training points at."""

import torch

from lomt.branching import next_finer, rewire
from lomt.pipeline.context import Context
from lomt.pipeline.run_directory import StageFolder

__all__ = ["prefer_finer"]


def prefer_finer(context: Context, folder: StageFolder, task: str, layer: str) -> dict[str, float]:
    """Train a task alone at a layer and at finer ones before it, for as long as finer is better.

    Every trial sees the same batches. Its loss is that of the validation split where there is one, else the mean
    over the last epoch's batches, each of which is judged before it is learned from.

    Args:
        context: Of the run.
        folder: Of the stage; finished trials are kept there and read back.
        task: The task.
        layer: The layer found.

    Returns:
        Loss by layer, in the order tried; the task should read the one with the least.
    """
    losses = {layer: _trial(context, folder, task, layer)}
    finer = next_finer(context.parts.layers, layer)
    while finer is not None:
        losses[finer] = _trial(context, folder, task, finer)
        if losses[finer] >= losses[layer]:
            break
        layer, finer = finer, next_finer(context.parts.layers, finer)
    return losses


def _trial(context: Context, folder: StageFolder, task: str, layer: str) -> float:
    recipe, parts = context.recipe, context.parts
    epochs = recipe.locate.finer_epochs
    name = f"at_{layer.replace('/', '_')}_for_{epochs}"
    stored = f"{task}/{name}.json"
    settings = recipe.train.model_dump(mode="json")
    if (folder.path / stored).exists():
        done = folder.read_json(stored)
        if done["train"] == settings:
            return float(done["loss"])
    context.progress.message(f"locate: {task} alone at {layer}")
    tasks = {task: parts.tasks[task]}
    torch.manual_seed(recipe.seed)
    model = context.build(rewire(parts.model_spec(tasks), {task: layer}), recipe.locate.start)
    trainer = context.trainer(model, tasks, recipe.train, folder.path / task, name=name, epochs=epochs)
    history = trainer.fit()
    loss = float(history[-1].get("validation_loss", history[-1]["train_loss"])[task])
    folder.write_json(
        stored, {"task": task, "layer": layer, "loss": loss, "train": settings, "history": history}
    )
    folder.drop_checkpoints()
    return loss
