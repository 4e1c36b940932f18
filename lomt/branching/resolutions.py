"""Layers at finer resolutions than the one that sparse training points at."""

from collections.abc import Sequence

from lomt.errors import UnknownNameError
from lomt.models import Layer

__all__ = ["next_finer"]


def next_finer(layers: Sequence[Layer], layer_name: str) -> str | None:
    """Return the deepest block before a layer whose features are finer than the layer's.

    Sparse training takes layers away from the end and so tells how deep a task has to read, not whether it
    would do better with the larger feature maps before: thin structures, such as edges, often do.

    Args:
        layers: Candidate layers of every kind, in forward order.
        layer_name: One of them.

    Returns:
        The finer layer's name, None where no block before is finer.

    Raises:
        UnknownNameError: If there is no such layer.
    """
    names = [layer.name for layer in layers]
    if layer_name not in names:
        raise UnknownNameError("layer", layer_name, names)
    index = names.index(layer_name)
    finer = [
        layer.name
        for layer in layers[:index]
        if layer.kind == "block" and layer.reduction < layers[index].reduction
    ]
    return finer[-1] if finer else None
