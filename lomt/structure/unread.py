"""Channels that nobody reads: all slices of all their consumers are zero."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool
from torch import Tensor

from lomt.structure.coupled_channels import CoupledChannels, Structure, TensorSlices

__all__ = ["unread"]


def unread(structure: Structure, tensors: Mapping[str, Tensor]) -> dict[str, Bool[Tensor, " _"]]:
    r"""Find the channels whose removal changes nothing.

    A channel :math:`c` is unread when :math:`W[:, c] = 0` in every consumer :math:`W` of it, where rows of
    :math:`W` that belong to channels found unread before do not count: what computes an unread channel need not
    be fed. This is repeated until no more are found. Channels that a normalisation or a reduction mixes are never
    among them, nor are protected ones.

    Args:
        structure: What was traced from the model.
        tensors: The model's tensors by name; a consumer's weight that is not among them counts as read.

    Returns:
        Masks, ``False`` for unread channels, by the name of the coupled channels that have any; at least one
        channel stays in each.
    """
    keep: dict[str, Tensor] = {}
    candidates = [own for own in structure.prunable if own.is_exact]
    readers = {part.tensor for own in candidates for part in own.slices if part.role == "consumer"}
    weights = {name: tensor.detach() for name, tensor in tensors.items() if name in readers}
    found = True
    while found:
        found = False
        resolved = structure.resolve(keep).tensors
        for own in candidates:
            mask = _read(own, weights, resolved)
            if not bool(mask.any()):
                mask[0] = True
            if int(mask.sum()) < int(keep[own.name].sum() if own.name in keep else own.count):
                keep[own.name] = mask
                found = True
    return keep


def _read(
    own: CoupledChannels, weights: Mapping[str, Tensor], kept: Mapping[str, Mapping[int, Tensor]]
) -> Tensor:
    read = torch.zeros(own.count, dtype=torch.bool)
    for slices in own.slices:
        if slices.role == "consumer" and slices.tensor not in weights:
            read[slices.owner[slices.owner >= 0]] = True
        elif slices.role == "consumer":
            positions = ~_is_zero_along(slices, weights[slices.tensor], kept.get(slices.tensor, {}))
            owned = slices.owner[positions.cpu() & (slices.owner >= 0)]
            read[owned] = True
    return read


def _is_zero_along(slices: TensorSlices, weight: Tensor, kept: Mapping[int, Tensor]) -> Tensor:
    """Tell which positions are zero wherever channels are kept; of dense weights a glance tells that none is."""
    others = [dim for dim in range(weight.ndim) if dim != slices.dim]
    glance = weight
    for dim in others:
        first = kept[dim][:1] if dim in kept else torch.zeros(min(weight.shape[dim], 1), dtype=torch.int64)
        glance = glance.index_select(dim, first.to(weight.device))
    is_zero = (glance == 0).movedim(slices.dim, 0).flatten(1).all(dim=1)
    left = is_zero.nonzero().flatten()
    if not len(left):
        return is_zero
    weight = weight.index_select(slices.dim, left)
    for dim in others:
        if dim in kept:
            weight = weight.index_select(dim, kept[dim].to(weight.device))
    is_zero[left] = (weight == 0).movedim(slices.dim, 0).flatten(1).all(dim=1)
    return is_zero
