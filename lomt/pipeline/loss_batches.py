"""The first training batches: their images, and the tasks' losses on them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from lomt.pipeline.parts import Parts
from lomt.pruning.task_importance import SquaredOutputs
from lomt.recipe import TrainSettings

__all__ = ["FirstBatches"]


@dataclass(frozen=True)
class FirstBatches:
    """A stage's first training batches, the same whenever asked.

    Args:
        parts: Of the run.
        settings: For the size of the batches.
        device: Where losses are computed and the example lies.
    """

    parts: Parts
    settings: TrainSettings
    device: torch.device

    def images(self, count: int) -> Iterator[Tensor]:
        """Yield images as networks take them, on the CPU."""
        for batch in self._batches(count):
            yield self.parts.prepared(batch["image"])

    def example(self) -> Tensor:
        """Return the first image as networks take it, a batch of one on the device."""
        return next(self.images(1))[:1].to(self.device)

    def losses(self, count: int, model: nn.Module) -> Iterator[dict[str, Tensor]]:
        """Yield each batch's weighted mean losses by task, on the model's device."""
        parts = self.parts
        for batch in self._batches(count):
            predictions = model(parts.prepared(batch["image"]).to(self.device))
            losses = {}
            for name, task in parts.tasks.items():
                target = batch[parts.targets[name]].to(self.device)
                mean = task.loss(predictions[name], target) / task.loss.count(target).clamp(min=1)
                losses[name] = parts.weights[name] * mean
            yield losses

    def squared_predictions(self, count: int, model: nn.Module) -> Iterator[dict[str, Tensor]]:
        """Yield each batch's mean squared predictions by task, for a model whose labels are its own answers."""
        yield from SquaredOutputs(images.to(self.device) for images in self.images(count))(model)

    def _batches(self, count: int) -> Iterator[Mapping[str, Tensor]]:
        return islice(self.parts.loader("train", self.settings).epoch(0), count)
