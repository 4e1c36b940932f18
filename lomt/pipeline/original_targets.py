"""A recipe's targets where they are taken from the original network instead of a dataset."""

from collections.abc import Callable, Mapping
from functools import cached_property

import torch
from torch import Tensor, nn

from lomt.data import Dataset, TargetSpec, teach
from lomt.errors import UnknownNameError
from lomt.pipeline.data_source import Split, channels_of, known_targets
from lomt.pipeline.original_answers import OriginalAnswers, specs_of_answers
from lomt.recipe import Recipe
from lomt.training import Progress

__all__ = ["OriginalTargets"]


class OriginalTargets:
    """What the original network answers, as targets of the recipe's tasks.

    In the test split the dataset's own labels judge a task, where it has any.

    Args:
        recipe: Validated.
        network: From prepared images to raw predictions by task, in eval mode.
        prepare: From images in 0 to 1 to prepared ones.
        inputs: The dataset's targets that are further channels of the images.
    """

    def __init__(
        self,
        recipe: Recipe,
        network: nn.Module,
        prepare: Callable[[Tensor], Tensor],
        inputs: Mapping[str, TargetSpec],
    ) -> None:
        self._recipe, self._inputs = recipe, inputs
        self._kinds = {name: settings.kind for name, settings in recipe.tasks.items()}
        self._answers = OriginalAnswers(network, prepare, self._kinds, _device(recipe))

    @cached_property
    def own(self) -> dict[str, TargetSpec]:
        """By task, the dataset's own target, where it has one.

        Raises:
            UnknownNameError: If a target that the recipe names is not there.
        """
        known = known_targets(self._recipe)
        found = {}
        for task, settings in self._recipe.tasks.items():
            name = settings.target or task
            if name in known:
                found[task] = known[name]
            elif settings.target is not None:
                raise UnknownNameError(f"target of task `{task}`", settings.target, known)
        return found

    @property
    def agreed(self) -> tuple[str, ...]:
        """The tasks that are judged by their agreement with the network."""
        return tuple(task for task in self._kinds if task not in self.own)

    def wanted(self, split: Split) -> set[str]:
        """Return which of the dataset's own targets a split needs for its tasks."""
        return {spec.name for spec in self.own.values()} if split == "test" else set()

    @cached_property
    def specs(self) -> dict[str, TargetSpec]:
        """What the targets are, by task.

        Raises:
            UnknownNameError: If the network does not know a task.
            DataError: If its predictions are not of the shape that the task's kind asks for.
        """
        height, width = self._recipe.data.size
        images = torch.zeros(1, channels_of(self._inputs), height, width)
        predictions = self._answers.predictions(images)
        return specs_of_answers(predictions, self._kinds, (height, width), self.own)

    def teach(self, split: Split, dataset: Dataset, fingerprint: str, progress: Progress | None) -> Dataset:
        """Return a split with these targets, which are made now.

        Args:
            split: Which.
            dataset: Its samples, all whole, with the targets that it `wanted`.
            fingerprint: Of images and network together.
            progress: Told of every batch.

        Raises:
            DataError: If a prediction is not finite.
        """
        taught = teach(
            dataset,
            self._answers,
            {**self.specs, **self._inputs},
            own={
                **({task: spec.name for task, spec in self.own.items()} if split == "test" else {}),
                **{name: name for name in self._inputs},
            },
            fingerprint=fingerprint,
            progress=progress,
            description=f"original's answers for {split}",
            inputs=tuple(self._inputs),
        )
        self._answers.network.cpu()
        return taught


def _device(recipe: Recipe) -> torch.device:
    """Return where the network runs; accelerate, whose precision is global, is not asked."""
    if recipe.device == "cpu" or not torch.accelerator.is_available():
        return torch.device("cpu")
    found = torch.accelerator.current_accelerator()
    assert found is not None, "there is one"
    return found
