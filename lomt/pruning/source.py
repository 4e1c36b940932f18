"""A model to be pruned, from what a user names: a factory or a directory, and weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from lomt.models.checkpoint_file import load_weights
from lomt.models.factory import Factory, FactoryError
from lomt.pruning.origin import Origin, set_origin
from lomt.pruning.storage import load

__all__ = ["open_model"]


def open_model(
    name: str, kwargs: Mapping[str, Any] | None = None, weights: str | Path | None = None
) -> nn.Module:
    """Build a model, load weights into it, and let it remember where it came from.

    Args:
        name: A factory, see :class:`lomt.models.factory.Factory`, or a directory with a saved model.
        kwargs: The factory's keyword arguments; a saved model has none.
        weights: A safetensors file or torch checkpoint.

    Returns:
        The model on the CPU, in eval mode.

    Raises:
        FactoryError: The factory cannot be found or does not build a model.
        ArtifactError: The saved model or the weights cannot be read or do not fit.
    """
    if Path(name).is_dir():
        if kwargs:
            raise FactoryError(
                f"Expected no `--option` for the saved model {name}, but got {', '.join(kwargs)}."
            )
        model = load(name)
    else:
        factory = Factory(name, dict(kwargs or {}))
        model = factory.build()
        set_origin(model, Origin(factory))
    if weights is not None:
        load_weights(model, weights)
    return model.eval()
