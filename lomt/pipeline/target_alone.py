"""The recipe's target in a network of its own, trained for as many steps and for as long as the multitask network."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lomt.errors import TrainingError
from lomt.pipeline.context import Context, wait_for_all
from lomt.pipeline.run_directory import StageFolder

__all__ = ["TARGET_ALONE", "run_target_alone"]

TARGET_ALONE = "target_alone"
"""Folder of what the target reaches alone."""

_STEPS, _TIME, _LENGTHS = "equal_steps", "equal_time", "lengths.json"


def run_target_alone(context: Context) -> None:
    """Train the target alone twice and judge it on the test split; writes ``target_alone/``.

    The first training has as many epochs as the multitask network had, the second as many as take the time that the
    multitask network took; where that is the same number there is one training. Nothing is done without a target or
    without auxiliary tasks, where the recipe says ``target_alone: false``, or where the multitask network came trained.
    """
    recipe = context.recipe
    if recipe.target is None or len(recipe.tasks) == 1 or not (recipe.target_alone and context.may_run):
        return
    folder = context.folder(TARGET_ALONE, context.settings_key("train"), context.keys["dense"])
    if folder.is_finished:
        return
    multitask = _Training.of(context.directory.path / "dense")
    if multitask is None:
        context.progress.message("train: the target is not trained alone, because the model came trained")
        return
    alone = _TargetAlone(context, folder, recipe.target)
    same_steps = alone.train(_STEPS, multitask.epochs)
    epochs = _epochs_in(multitask.seconds, same_steps["seconds"] / same_steps["epochs"])
    same_time = same_steps if alone.length(_TIME, epochs) == multitask.epochs else alone.train(_TIME, epochs)
    folder.write_json(
        "metrics.json",
        {
            "split": "test",
            "task": recipe.target,
            "multitask": {"epochs": multitask.epochs, "seconds": multitask.seconds},
            _STEPS: same_steps,
            _TIME: same_time,
        },
    )
    folder.finish()


@dataclass(frozen=True)
class _Training:
    """What a training took.

    Args:
        epochs: That it had.
        seconds: On the clock, all epochs together.
    """

    epochs: int
    seconds: float

    @classmethod
    def of(cls, folder: Path) -> "_Training | None":
        """Read a training's history; None where there was no training."""
        path = folder / "history.jsonl"
        if not path.is_file():
            return None
        seconds = [json.loads(line)["seconds"] for line in path.read_text(encoding="utf-8").splitlines()]
        return cls(len(seconds), sum(seconds)) if seconds else None


@dataclass(frozen=True)
class _TargetAlone:
    """The target's own trainings.

    Args:
        context: Of the run.
        folder: Of what they write.
        task: The target.
    """

    context: Context
    folder: StageFolder
    task: str

    def train(self, name: str, epochs: int) -> dict[str, Any]:
        """Train for some epochs, or go on with it, and judge; return what it took and came to."""
        context, settings = self.context, self.context.recipe.train
        epochs = self.length(name, epochs)
        context.progress.message(f"train: {self.task} alone, {epochs} epochs ({name.replace('_', ' ')})")
        tasks = {self.task: context.parts.tasks[self.task]}
        place = self.folder.path / name
        torch.manual_seed(context.recipe.seed)
        model = context.build(context.parts.model_spec(tasks))
        trainer = context.trainer(model, tasks, settings, place, epochs=epochs)
        trainer.fit()
        wait_for_all()
        taken = _Training.of(place)
        if taken is None:
            raise TrainingError(
                f"Expected the training of `{self.task}` alone to leave a history in {place}."
            )
        result = context.evaluate(trainer, tasks, settings, f"{self.task} alone")
        return {
            "epochs": taken.epochs,
            "seconds": taken.seconds,
            "metrics": dict(result.metrics[self.task]),
            "loss": result.losses[self.task],
        }

    def length(self, name: str, epochs: int) -> int:
        """Return the epochs of a training, as it began: times vary, a killed training's length does not."""
        path = self.folder.path / _LENGTHS
        known: Mapping[str, int] = self.folder.read_json(_LENGTHS) if path.exists() else {}
        wait_for_all()
        if name not in known:
            known = {**known, name: epochs}
            self.folder.write_json(_LENGTHS, known)
            wait_for_all()
        return known[name]


def _epochs_in(seconds: float, seconds_an_epoch: float) -> int:
    """Return how many epochs come nearest to a time, at least one."""
    return max(1, round(seconds / seconds_an_epoch))
