"""The user's own model that a recipe names: built, taken apart, described."""

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path

import torch

from lomt.checksum import sha256_of
from lomt.models import AdoptedSpec, Adoption
from lomt.recipe import Recipe, find_model_weights
from lomt.tasks import KINDS

__all__ = ["OwnModel"]


class OwnModel:
    """A recipe's `model.factory` and what goes with it.

    Args:
        recipe: Validated, with a factory.
        inputs: Channels of what the model takes beside the image, by name.
    """

    def __init__(self, recipe: Recipe, inputs: Mapping[str, int]) -> None:
        assert recipe.model.factory is not None, "the recipe names a factory"
        self._recipe, self._factory, self._inputs = recipe, recipe.model.factory, inputs

    @cached_property
    def adoption(self) -> Adoption:
        """The model with its weights, taken apart.

        Raises:
            LomtError: The model cannot be built or cut as described.
        """
        # A factory's random weights must not depend on which stage asks first.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._recipe.seed)
            return self.spec(self._recipe.tasks).adopt(find_model_weights(self._recipe.model))

    @cached_property
    def weights_sha256(self) -> str | None:
        """What identifies its weights; None where the factory's are meant."""
        file = find_model_weights(self._recipe.model)
        return None if file is None else sha256_of(file)

    def spec(self, tasks: Iterable[str]) -> AdoptedSpec:
        """Return the network of some of the recipe's tasks, each where the model has it."""
        model, tasks = self._recipe.model, tuple(tasks)
        new = {task: _at_its_place(own) for task, own in model.new_decoders.items() if task in tasks}
        return AdoptedSpec(
            factory=_at_its_place(self._factory),
            dense={name: KINDS[self._recipe.tasks[name].kind].is_dense for name in tasks},
            size=self._recipe.data.size,
            inputs=self._inputs,
            kwargs=model.factory_options,
            outputs=model.outputs,
            backbone=tuple(model.backbone.path or ()),
            decoder_paths={
                task: (own,) if isinstance(own, str) else tuple(own) for task, own in model.decoders.items()
            },
            new_decoders=new,
        )


def _at_its_place(factory: str) -> str:
    """Return a factory that is found from every directory."""
    place, _, name = factory.rpartition(":")
    return f"{Path(place).resolve()}:{name}" if place.endswith(".py") else factory
