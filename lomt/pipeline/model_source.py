"""What a user names to export, verify or count: a run, a saved model or a factory."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lomt.deploy import Interface, Preprocessing
from lomt.errors import ArtifactError, LomtError
from lomt.models.example_inputs import parse_inputs
from lomt.pipeline.onnx_quality import (
    Results,
    check_metrics,
    file_images,
    interface_of,
    preprocessing_of,
    samples,
)
from lomt.pipeline.parts import Parts
from lomt.pipeline.run_directory import read_json
from lomt.pruning.source import open_model
from lomt.pruning.storage import load
from lomt.recipe import load_recipe

__all__ = ["NETWORKS", "ModelSource", "open_source"]

NETWORKS = ("dense", "rewired", "sparse", "pruned_only", "pruned", "finetuned", "added")
"""Folders of a run that hold a network; the last that is there is the one to deploy."""

_SAMPLES = 8


@dataclass(frozen=True)
class ModelSource:
    """A model with what is known about its images and answers.

    Args:
        name: What the user named, a run's network included.
        model: In eval mode, on the CPU.
        images: Prepared images, or images in 0 to 1 where there are ``parts``; random ones where there are no data.
        interface: What files of it take and give when nothing is baked in.
        metrics: PyTorch's metrics by task, of a run's network.
        parts: Data and tasks of a run.
        batch: Number of images of a file with a fixed batch.
    """

    name: str
    model: nn.Module
    images: Tensor
    interface: Interface
    metrics: Results = field(default_factory=dict)
    parts: Parts | None = None
    batch: int = 1

    def file_images(self, interface: Interface) -> Tensor:
        """Return the images as a file with this interface takes them."""
        if self.parts is not None:
            return file_images(self.parts, self.images, interface)
        return _random_images(self.images, interface) if interface.is_baked else self.images

    def check(self, interface: Interface) -> Callable[[Path, Path], Results] | None:
        """Return what recomputes a file's metrics and compares them; ``None`` where there are no data."""
        if self.parts is None or not self.metrics:
            return None
        return check_metrics(self.parts, self.metrics, interface)


def open_source(
    name: str,
    inputs: Sequence[str] = (),
    *,
    weights: Path | None = None,
    kwargs: Mapping[str, Any] | None = None,
    uses_data: bool = True,
) -> ModelSource:
    """Build the model that a user names.

    Args:
        name: A run directory (its best network), a run's network such as ``runs/demo/dense``, a saved model's
            directory, or a factory, see :class:`lomt.models.factory.Factory`.
        inputs: The image's shape, such as ``1x3x224x224``; not needed for runs and models of timm.
        weights: File with weights for a factory.
        kwargs: Arguments of a factory.
        uses_data: Whether a run's data are opened.

    Raises:
        LomtError: The model cannot be built, or the shape of its images is not known.
    """
    found = _run_network(Path(name))
    if found is None:
        return _plain_source(name, inputs, weights, kwargs or {})
    if inputs or weights or kwargs:
        raise LomtError(
            f"Expected no `--input`, `--weights` and `--option` for {name}, because its recipe says them."
        )
    folder, recipe_file = found
    recipe = load_recipe(str(recipe_file))
    parts = Parts(recipe)
    model = load(folder).eval()
    shown = str(folder)
    if not uses_data:
        images = _random((_SAMPLES, parts.channels, *recipe.data.size))
        kinds = {task: settings.kind for task, settings in recipe.tasks.items()}
        return ModelSource(shown, model, images, Interface(preprocessing_of(parts), kinds))
    stored = read_json(folder / "metrics.json")
    images = samples(parts, _SAMPLES)
    return ModelSource(shown, model, images, interface_of(parts), stored["metrics"], parts)


def _run_network(path: Path) -> tuple[Path, Path] | None:
    """Return the folder of a run's network and its recipe; ``None`` for what is no run."""
    if (recipe := path.parent / "recipe.yaml").is_file() and path.name in NETWORKS and path.is_dir():
        return path, recipe
    recipe = path / "recipe.yaml"
    if not recipe.is_file():
        return None
    folders = [path / name for name in NETWORKS if (path / name / "metrics.json").is_file()]
    if not folders:
        raise ArtifactError(
            f"Expected run {path} to hold a trained network, but it has none. Run `lomt train` first."
        )
    return folders[-1], recipe


def _plain_source(
    name: str, inputs: Sequence[str], weights: Path | None, kwargs: Mapping[str, Any]
) -> ModelSource:
    model = open_model(name, kwargs, weights)
    own: Any = getattr(model, "pretrained_cfg", None) or {}
    shape = list(inputs) or (["x".join(map(str, (1, *own["input_size"])))] if own.get("input_size") else [])
    if not shape:
        raise LomtError(
            f"Expected `--input SHAPE`, such as 1x3x224x224, because {name} does not say how large its images are."
        )
    try:
        images = parse_inputs(shape)
    except ValueError as error:
        raise LomtError(str(error)) from error
    if not isinstance(images, Tensor) or images.ndim != 4:
        raise LomtError(
            f"Expected one `--input` for the images, of the form 1x3x224x224, but got {' '.join(shape)}. "
            "Models with other inputs can be exported with torch.onnx.export."
        )
    preprocessing = None
    if own.get("mean") and own.get("std") and len(own["mean"]) == images.shape[1]:
        preprocessing = Preprocessing(tuple(own["mean"]), tuple(own["std"]))
    drawn = _random((max(_SAMPLES, len(images)), *images.shape[1:]))
    return ModelSource(name, model, drawn, Interface(preprocessing), batch=len(images))


def _random(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _random_images(images: Tensor, interface: Interface) -> Tensor:
    """Return random images between 0 and the highest value that a file takes."""
    assert interface.preprocessing is not None
    drawn = torch.rand(images.shape, generator=torch.Generator().manual_seed(0))
    return drawn * interface.preprocessing.highest
