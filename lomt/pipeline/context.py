"""What every stage gets: recipe, parts, folder, processes and someone to tell."""

import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from accelerate import Accelerator, PartialState
from torch import Tensor, nn

from lomt._version import __version__
from lomt.branching import SelectionModel, copy_matching_weights
from lomt.errors import ArtifactError
from lomt.models import (
    AdoptedModel,
    AdoptedSpec,
    ModelSpec,
    MultiTaskModel,
    TaskNetwork,
    fit_adapters,
    load_model,
)
from lomt.pipeline.parts import Parts, training_options
from lomt.pipeline.run_directory import RunDirectory, StageFolder, key_of
from lomt.recipe import Recipe, TrainSettings
from lomt.tasks import Task
from lomt.training import (
    Distillation,
    Evaluation,
    Progress,
    Regularizer,
    SilentProgress,
    Trainer,
    evaluate,
    make_accelerator,
)
from lomt.training.weighting import Weighting

__all__ = ["ADAPTER_IMAGES", "Context", "open_context", "provenance", "wait_for_all"]

AnyModel = TypeVar("AnyModel", MultiTaskModel, SelectionModel)
ADAPTER_IMAGES = 320
"""Images that adapters begin with, about."""


@dataclass
class Context:
    """One run of the pipeline in one process.

    Args:
        recipe: Validated.
        directory: Where artefacts go.
        progress: Told what runs.
        parts: What the recipe's blocks stand for.
        is_writer: Whether this process writes the artefacts.
        may_run: Whether stages may run; otherwise they only have to be up to date.
        keys: Key of each stage done or skipped so far, by name.
    """

    recipe: Recipe
    directory: RunDirectory
    progress: Progress
    parts: Parts
    is_writer: bool
    may_run: bool = True
    keys: dict[str, str] = field(default_factory=dict)

    def folder(self, name: str, *depends_on: Any) -> StageFolder:
        """Return a stage's folder, emptied if it was made for something else.

        Raises:
            ArtifactError: If stages may not run now and this one has not run with these settings.
        """
        self.keys[name] = key_of(name, __version__, *depends_on)
        folder = StageFolder(self.directory.path / name, self.keys[name], self.is_writer)
        if not self.may_run and not folder.is_finished:
            raise ArtifactError(
                f"Expected {folder.path} to hold a finished stage with the recipe's settings, but it does not. "
                "Run the earlier stages first; `lomt run` does."
            )
        if self.may_run:
            folder.prepare()
            PartialState().wait_for_everyone()
        return folder

    def settings_key(self, *blocks: str) -> dict[str, Any]:
        """Return what the result depends on: the named blocks, data, tasks, model, seed."""
        content = self.recipe.model_dump(mode="json")
        names = ("data", "tasks", "model", "seed", *blocks)
        kept = {name: _without_unused(content[name]) for name in names}
        if self.recipe.target is not None:
            kept["target"] = self.recipe.target
        for name in ("cache", "cache_dir", "workers"):
            kept["data"].pop(name, None)
        if kept.get("prune"):
            del kept["prune"]["pruned_only"]
        _drop_unused_model_keys(kept["model"])
        if self.recipe.model.weights is not None:
            assert self.parts.own_model is not None, "weights are of the user's own model"
            kept["model"]["weights_sha256"] = self.parts.own_model.weights_sha256
        if kept.get("rewire") and kept["rewire"]["distill"] is None:
            del kept["rewire"]["distill"]
        defaults: dict[str, Any] = {
            "damaged": "refuse",
            "factory": None,
            "factory_options": {},
            "test_fraction": 0.1,
            "targets": "dataset",
        }
        for name, default in defaults.items():
            if kept["data"][name] == default:
                del kept["data"][name]
        return {"settings": kept, "data": self.parts.fingerprint}

    def accelerator(self, settings: TrainSettings) -> Accelerator:
        """Return the engine for a stage's precision."""
        return make_accelerator(settings.precision, self.recipe.device)

    def trainer(
        self,
        model: nn.Module,
        tasks: Mapping[str, Task],
        settings: TrainSettings,
        folder: Path,
        *,
        name: str = "train",
        seed: int | None = None,
        epochs: int | None = None,
        weights: Mapping[str, float] | None = None,
        targets: Mapping[str, str] | None = None,
        weighting: Weighting | None = None,
        regularizer: Regularizer | None = None,
        distillation: Distillation | None = None,
        optimizer_state: Mapping[str, Tensor] | None = None,
        backbone_lr: float = 1.0,
    ) -> Trainer:
        """Return a trainer whose checkpoint and history are files of ``folder`` that begin with ``name``."""
        engine = self.accelerator(settings)
        place = {"rank": engine.process_index, "world_size": engine.num_processes}
        has_validation = self.parts.dataset("validation") is not None
        if len(tasks) == 1:
            settings = _for_one_task(settings)
        return Trainer(
            model,
            tasks,
            self.parts.loader("train", settings, **place),
            training_options(
                settings,
                self.recipe.seed if seed is None else seed,
                epochs=epochs,
                target=self.recipe.target if self.recipe.target in tasks else None,
                backbone_lr=backbone_lr,
            ),
            targets=self.parts.targets if targets is None else targets,
            weights=self.parts.weights if weights is None else weights,
            weighting=weighting,
            validation=self.parts.loader("validation", settings, **place) if has_validation else None,
            regularizer=regularizer,
            distillation=distillation,
            optimizer_state=optimizer_state,
            checkpoint=folder / f"{name}.checkpoint",
            history=folder / ("history.jsonl" if name == "train" else f"{name}.history.jsonl"),
            accelerator=engine,
            progress=self.progress,
            **self.parts.normalisation,
        )

    def evaluate(
        self, trainer: Trainer, tasks: Mapping[str, Task], settings: TrainSettings, what: str
    ) -> Evaluation:
        """Return a trained model's losses and metrics on the test split."""
        engine = self.accelerator(settings)
        loader = self.parts.loader(
            "test", settings, rank=engine.process_index, world_size=engine.num_processes
        )
        self.progress.start(f"testing {what}", loader.batches_per_epoch)
        result = evaluate(
            trainer.predict,
            loader.epoch(0),
            tasks,
            targets=self.parts.targets,
            accelerator=engine,
            progress=self.progress,
        )
        self.progress.finish()
        return result

    def build(
        self, spec: ModelSpec | AdoptedSpec, start: Literal["initial", "dense"] = "initial"
    ) -> TaskNetwork:
        """Build a network as it is before training.

        One of timm's parts gets the recipe's backbone weights and heads that begin at the best constants; the user's
        own keeps its weights, and adapters begin at what comes nearest to the features they stand in for.

        Args:
            spec: Which network.
            start: Whether what it has in common with the dense network begins with the weights trained there.
        """
        if isinstance(spec, ModelSpec):
            model: TaskNetwork = self.fill(spec.build())
        else:
            model = spec.cut(self.parts.adoption)
        dense = load_model(self.directory.path / "dense") if start == "dense" else None
        if dense is not None:
            copy_matching_weights(dense, model)
        if isinstance(model, AdoptedModel) and model.has_adapters:
            reference = dense if dense is not None else self.parts.original
            assert isinstance(reference, AdoptedModel)
            batches = self.parts.loader("train", self.recipe.train, is_augmented=False).epoch(0)
            count = -(-ADAPTER_IMAGES // self.recipe.train.batch_size)
            images = (self.parts.prepared(batch["image"]) for batch in islice(batches, count))
            fit_adapters(model, reference, images)
        return model

    def fill(self, model: AnyModel) -> AnyModel:
        """Give a new network of timm's parts the recipe's backbone weights, and heads the best constants."""
        biases = self.parts.output_biases
        model.set_output_biases({task: biases[task] for task in model.spec.decoders})
        own = self.parts.backbone.state_dict()
        backbone = model.backbone.state_dict()
        model.backbone.load_state_dict({name: own.get(name, value) for name, value in backbone.items()})
        return model


def wait_for_all() -> None:
    """Go on when all processes have come here."""
    PartialState().wait_for_everyone()


def open_context(recipe: Recipe, out: Path, progress: Progress | None = None) -> Context:
    """Return what the stages of a recipe get, with its run directory made or taken up again.

    Args:
        recipe: Validated.
        out: The run directory.
        progress: Told what runs, in the process that writes.

    Raises:
        ArtifactError: If the directory belongs to another recipe.
        DataError: If the data are not as described.
        TrainingError: If the device is not there.
    """
    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)
    engine = make_accelerator(device=recipe.device)
    told = progress if progress is not None and engine.is_main_process else SilentProgress()
    parts = Parts(recipe, told)
    directory = RunDirectory(out, recipe, provenance(parts, recipe), is_writer=engine.is_main_process)
    engine.wait_for_everyone()
    return Context(recipe, directory, told, parts, engine.is_main_process)


def _for_one_task(settings: TrainSettings) -> TrainSettings:
    """Leave out what needs several tasks; a learned scale of the loss does not."""
    changes: dict[str, Any] = {"aggregation": None, "aggregation_options": {}}
    if settings.weighting != "uncertainty":
        changes |= {"weighting": "fixed", "weighting_options": {}}
    return settings.model_copy(update=changes)


def _without_unused(block: Any) -> Any:
    """Drop the keys of methods that are not in use, so that what was made before there were such keys stays valid."""
    if not isinstance(block, dict):
        return block
    unused: dict[str, Any] = {"weighting_options": {}, "aggregation": None, "aggregation_options": {}}
    return {
        name: _without_unused(value)
        for name, value in block.items()
        if name not in unused or value != unused[name]
    }


def _drop_unused_model_keys(model: dict[str, Any]) -> None:
    """Drop what is said of a model of the user's own where there is none."""
    if model["factory"] is None:
        for name in (
            "factory",
            "factory_options",
            "weights",
            "trained",
            "inputs",
            "outputs",
            "decoders",
            "new_decoders",
        ):
            del model[name]
    if model["backbone"]["path"] is None:
        del model["backbone"]["path"]


def provenance(parts: Parts, recipe: Recipe) -> str:
    """Return comment lines: versions, seed, commit and data."""
    lines = [
        f"lomt {__version__}, Python {platform.python_version()}, "
        + ", ".join(f"{name} {_version(name)}" for name in ("torch", "timm", "onnx", "onnxruntime")),
        f"git commit {_commit()}, seed {recipe.seed}, data fingerprint {parts.fingerprint}",
    ]
    return "".join(f"# {line}\n" for line in lines)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def _commit() -> str:
    command: Sequence[str] = ("git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD")
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
