"""From a recipe's blocks to the components that do the work."""

import os
from collections.abc import Mapping
from functools import cached_property
from itertools import islice

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lomt.data import (
    Augmentation,
    BatchLoader,
    Damage,
    Dataset,
    TargetSpec,
    find_damage,
    require_whole,
    without_damage,
)
from lomt.deploy import weights_hash
from lomt.errors import DataError, UnknownNameError
from lomt.models import (
    AdoptedSpec,
    Adoption,
    BackboneSpec,
    DecoderSpec,
    Layer,
    ModelSpec,
    TaskNetwork,
    create_backbone,
    list_layers,
)
from lomt.pipeline.data_source import Split, channels_of, known_targets, needs_check, open_split
from lomt.pipeline.original_targets import OriginalTargets
from lomt.pipeline.own_model import OwnModel
from lomt.recipe import DecoderSettings, Recipe, TrainSettings, find_weights
from lomt.tasks import Task, best_constant, make_task
from lomt.training import OptimizerOptions, Progress, ScheduleOptions, TrainingOptions

__all__ = ["Parts", "decoder_spec", "training_options"]

_BIAS_BATCHES = 32
_READERS = min(4, os.cpu_count() or 1)
"""Threads that read samples before a run starts."""


class Parts:
    """Everything that the stages share, made when first asked for.

    Args:
        recipe: Validated.
        progress: Told of the samples read before a run starts.

    Attributes:
        skipped: By split, the damaged samples that are left out.
        targets: By task, the name of its target in batches.
        weights: By task, its weight.
    """

    def __init__(self, recipe: Recipe, progress: Progress | None = None) -> None:
        self.recipe = recipe
        self.skipped: dict[Split, tuple[Damage, ...]] = {}
        self._progress = progress
        is_taught = recipe.data.targets == "original"
        self.targets = {
            name: name if is_taught else settings.target or name for name, settings in recipe.tasks.items()
        }
        self.weights = {name: settings.weight for name, settings in recipe.tasks.items()}
        self._splits: dict[Split, Dataset | None] = {}
        self._readable: dict[Split, Dataset] = {}

    def dataset(self, split: Split) -> Dataset | None:
        """Return a split, or None for a validation split that there is not.

        Raises:
            DataError: If the data are not as described.
        """
        if split not in self._splits:
            taught = self._taught
            wanted = set(self.targets.values()) if taught is None else taught.wanted(split)
            self._splits[split] = open_split(self.recipe, split, sorted(wanted.union(self.inputs)))
        return self._splits[split]

    @cached_property
    def fingerprint(self) -> str:
        """What identifies the data, and the network that makes their targets if one does."""
        images = "+".join(d.fingerprint for s in ("train", "test") if (d := self.dataset(s)) is not None)
        return (
            f"{images}+{weights_hash.weights_sha256(self.original)}" if self._taught is not None else images
        )

    @cached_property
    def agreed(self) -> tuple[str, ...]:
        """The tasks whose targets in the test split are predictions of the original network."""
        return () if self._taught is None else self._taught.agreed

    @cached_property
    def _taught(self) -> OriginalTargets | None:
        """Targets that are not the dataset's; None where all are."""
        if self.recipe.data.targets == "dataset":
            return None
        return OriginalTargets(self.recipe, self.original, self.prepared, self.inputs)

    @cached_property
    def inputs(self) -> dict[str, TargetSpec]:
        """The dataset's targets that the network takes as further channels of the image, in order.

        Raises:
            UnknownNameError: If the dataset has no such target.
            DataError: If one is no map of numbers.
        """
        if not self.recipe.model.inputs:
            return {}
        known = known_targets(self.recipe)
        for name in self.recipe.model.inputs:
            if name not in known:
                raise UnknownNameError("target of `model.inputs`", name, known)
            if not known[name].is_dense or known[name].kind == "segmentation":
                raise DataError(
                    f"Expected target `{name}` of `model.inputs` to be a map of numbers, such as depth, but it is of "
                    f"kind {known[name].kind}."
                )
        return {name: known[name] for name in self.recipe.model.inputs}

    @property
    def channels(self) -> int:
        """Channels of what networks take."""
        return channels_of(self.inputs)

    @cached_property
    def tasks(self) -> dict[str, Task]:
        """The tasks by name, with as many outputs as their targets ask for.

        Raises:
            UnknownNameError: If the dataset has no such target.
            DataError: If the target is of another kind than the recipe says.
        """
        data = self.dataset("train")
        assert data is not None
        known = data.targets if self._taught is None else self._taught.specs
        tasks = {}
        for name, settings in self.recipe.tasks.items():
            target = self.targets[name]
            if target not in known:
                raise UnknownNameError(f"target of task `{name}`", target, known)
            spec = known[target]
            if spec.kind != settings.kind:
                raise DataError(
                    f"Expected target `{target}` of {data.name} to be of kind {settings.kind}, because "
                    f"`tasks.{name}.kind` says so, but it is of kind {spec.kind}."
                )
            tasks[name] = make_task(
                name,
                settings.kind,
                spec.out_channels,
                loss=settings.loss,
                loss_options=settings.loss_options,
                classes=spec.classes,
            )
        return tasks

    def loader(
        self,
        split: Split,
        settings: TrainSettings,
        *,
        rank: int = 0,
        world_size: int = 1,
        is_augmented: bool = True,
    ) -> BatchLoader:
        """Return batches of a split: shuffled and, unless told not to, augmented for training, in order otherwise.

        The first time, every sample is read.

        Raises:
            DataError: If samples are damaged and the recipe does not let them be skipped.
        """
        data, is_training = self._whole(split), split == "train"
        augment = self.recipe.data.augment
        return BatchLoader(
            data,
            settings.batch_size,
            shuffle=is_training,
            seed=self.recipe.seed,
            augmentation=Augmentation(**augment.model_dump()) if is_training and is_augmented else None,
            workers=self.recipe.data.workers,
            drop_last=is_training and len(data) >= settings.batch_size,
            rank=rank,
            world_size=world_size,
            inputs=tuple(self.inputs),
        )

    @cached_property
    def output_biases(self) -> dict[str, Tensor]:
        """What each task's head should predict at first, from the first batches of training targets."""
        batches = list(islice(self.loader("train", self.recipe.train).epoch(0), _BIAS_BATCHES))
        return {
            name: best_constant(task, (batch[self.targets[name]] for batch in batches))
            for name, task in self.tasks.items()
        }

    @cached_property
    def backbone(self) -> nn.Module:
        """The whole backbone with the weights that the recipe asks for; not to be trained itself."""
        # Random weights must not depend on which stage asks first.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.recipe.seed)
            return create_backbone(self.backbone_spec, find_weights(self.recipe.model.backbone))

    @property
    def backbone_spec(self) -> BackboneSpec:
        """Which backbone."""
        settings = self.recipe.model.backbone
        assert settings.name is not None, "without a factory"
        return BackboneSpec(settings.name, settings.output_stride, settings.options)

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """Candidate layers of every kind with their costs, in forward order."""
        if self.own_model is not None:
            return self.adoption.layers
        return tuple(list_layers(self.backbone, self.recipe.data.size, "all"))

    @cached_property
    def normalisation(self) -> dict[str, tuple[float, ...]]:
        """Mean and standard deviation of the image channels: the recipe's, else the timm backbone's own.

        Those of further inputs are 0 and 1.
        """
        own = {} if self.own_model is not None else getattr(self.backbone, "default_cfg", {})
        data, more = self.recipe.data, self.channels - 3
        return {
            "mean": (*(data.mean or own.get("mean") or (0.0, 0.0, 0.0)), *[0.0] * more),
            "std": (*(data.std or own.get("std") or (1.0, 1.0, 1.0)), *[1.0] * more),
        }

    def prepared(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Return images in 0 to 1 as networks take them: minus the mean, divided by the standard deviation."""
        mean, std = (torch.tensor(self.normalisation[name])[:, None, None] for name in ("mean", "std"))
        return (images - mean) / std

    @cached_property
    def own_model(self) -> OwnModel | None:
        """The user's own model; None where the network is built of timm's parts."""
        if self.recipe.model.factory is None:
            return None
        return OwnModel(self.recipe, {name: spec.out_channels for name, spec in self.inputs.items()})

    @cached_property
    def adoption(self) -> Adoption:
        """The user's own model, taken apart.

        Raises:
            LomtError: The model cannot be built or cut as described, or does not predict what the tasks ask for.
        """
        assert self.own_model is not None, "asked before"
        adoption = self.own_model.adoption
        if self.recipe.data.targets == "dataset":  # targets made of predictions fit them
            adoption.check_predictions(
                {name: (task.out_channels, task.is_dense) for name, task in self.tasks.items()}
            )
        return adoption

    @cached_property
    def original(self) -> TaskNetwork:
        """The user's own model as it was given, in eval mode; not to be trained.

        It maps prepared images, (batch, 3, height, width), to raw predictions by task; dense ones are as high and wide
        as the images.

        Raises:
            LomtError: The recipe names none.
        """
        if self.own_model is None:
            raise DataError(
                "Expected the recipe to name a trained network of your own whose predictions are learned from, but "
                "it names none. Give `model.factory` and `model.weights`."
            )
        return self.own_model.spec(self.recipe.tasks).cut(self.adoption).eval()

    def model_spec(self, tasks: Mapping[str, Task] | None = None) -> ModelSpec | AdoptedSpec:
        """Return the dense network: every decoder at the backbone's last layer, or where the user's own has it."""
        tasks = tasks if tasks is not None else self.tasks
        if self.own_model is not None:
            return self.own_model.spec(tasks)
        return ModelSpec(
            backbone=self.backbone_spec,
            decoders={
                name: decoder_spec(self.recipe.tasks[name].decoder, task) for name, task in tasks.items()
            },
            out_channels={name: task.out_channels for name, task in tasks.items()},
            dense={name: task.is_dense for name, task in tasks.items()},
            branch_points={},
        )

    def _whole(self, split: Split) -> Dataset:
        """Return the samples of a split that can be read: all of them, unless the recipe lets some be skipped."""
        if split not in self._readable:
            data = self.dataset(split)
            assert data is not None
            if needs_check(self.recipe):
                damages = find_damage(
                    data, threads=_READERS, progress=self._progress, description=f"reading {split}"
                )
                if self.recipe.data.damaged == "refuse":
                    require_whole(data, damages)
                self.skipped[split] = damages
                data = without_damage(data, damages)
            if self._taught is not None:
                data = self._taught.teach(split, data, self.fingerprint, self._progress)
            self._readable[split] = data
        return self._readable[split]


def training_options(
    settings: TrainSettings,
    seed: int,
    *,
    epochs: int | None = None,
    target: str | None = None,
    backbone_lr: float = 1.0,
) -> TrainingOptions:
    """Return the training loop's options.

    Args:
        settings: A recipe's block.
        seed: Of dropout and the like.
        epochs: In place of the block's own.
        target: The task that counts in the end, if there is one.
        backbone_lr: Learning rate of the backbone, as a share of the others'.
    """
    stopping = settings.early_stopping
    return TrainingOptions(
        epochs=epochs or settings.epochs,
        accumulation_steps=settings.accumulation_steps,
        precision=settings.precision,
        optimizer=OptimizerOptions(**settings.optimizer.model_dump(), backbone_lr=backbone_lr),
        schedule=ScheduleOptions(**settings.schedule.model_dump()),
        weighting=settings.weighting,
        weighting_options=settings.weighting_options,
        aggregation=settings.aggregation,
        aggregation_options=settings.aggregation_options,
        target=target,
        gradient_clip=settings.gradient_clip,
        early_stopping=stopping.patience if stopping else None,
        min_change=stopping.min_change if stopping else 0.0,
        keep=settings.keep,
        checkpoint_s=settings.checkpoint_s,
        tensorboard=settings.tensorboard,
        seed=seed,
    )


def decoder_spec(settings: DecoderSettings, task: Task) -> DecoderSpec:
    """Return what a task's decoder is: the recipe's, or a classifier where there is one answer an image."""
    kind = settings.kind if task.is_dense else "classifier"
    return DecoderSpec(kind=kind, width=settings.width, rates=tuple(settings.rates), dropout=settings.dropout)
