"""Stage ``train``: the dense multitask baseline, every decoder at the backbone's end or where the user's has it."""

import torch

from lomt.models import save_model
from lomt.pipeline.context import Context

__all__ = ["run_train"]


def run_train(context: Context) -> None:
    """Train the dense network, unless the user's own is trained, and judge it on the test split; writes ``dense/``."""
    folder = context.folder("dense", context.settings_key("train"))
    if folder.is_finished:
        return
    parts, settings = context.parts, context.recipe.train
    given = context.recipe.model.trained
    is_trained = given if given is not None else context.recipe.model.weights is not None
    context.progress.message(
        "train: the model is trained already" if is_trained else "train: dense multitask network"
    )
    torch.manual_seed(context.recipe.seed)
    model = context.build(parts.model_spec())
    trainer = context.trainer(model, parts.tasks, settings, folder.path)
    if not is_trained:
        trainer.fit()
    result = context.evaluate(trainer, parts.tasks, settings, "dense")
    if context.is_writer:
        save_model(model, folder.path)
    folder.write_json("metrics.json", {"split": "test", "metrics": result.metrics, "losses": result.losses})
    folder.finish()
