"""Zeros in a network's weights: channels that nobody reads, and tensors without anything in them."""

from jaxtyping import Bool
from torch import Tensor, nn

from lomt.structure import Structure, named_tensors, unread

__all__ = ["is_all_zero", "unread_channels"]

_GLANCE = 64


def unread_channels(structure: Structure, model: nn.Module) -> dict[str, Bool[Tensor, " _"]]:
    """Find the channels whose removal changes nothing, as `lomt.structure.unread` defines them.

    Args:
        structure: What was traced from the model.
        model: Its values.

    Returns:
        Masks, ``False`` for unread channels, by the name of the coupled channels that have any; at least one
        channel stays in each.
    """
    return unread(structure, named_tensors(model))


def is_all_zero(tensor: Tensor) -> bool:
    """Say whether a tensor has no entry other than zero; for most a glance at the first ones will do."""
    values = tensor.detach().reshape(-1)
    return not bool(values[:_GLANCE].any()) and not bool(values.any())
