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
    tensors = {name: tensor for name, tensor in tensors.items() if name in readers}
    # Dense weights are told by counting, which is much faster than looking along a dimension.
    is_zero = {
        name: tensor == 0 for name, tensor in tensors.items() if int(tensor.count_nonzero()) < tensor.numel()
    }
    found = True
    while found:
        found = False
        resolved = structure.resolve(keep).tensors
        for own in candidates:
            mask = _read(own, is_zero, resolved)
            if not bool(mask.any()):
                mask[0] = True
            if int(mask.sum()) < int(keep[own.name].sum() if own.name in keep else own.count):
                keep[own.name] = mask
                found = True
    return keep


def _read(
    own: CoupledChannels, is_zero: Mapping[str, Tensor], kept: Mapping[str, Mapping[int, Tensor]]
) -> Tensor:
    read = torch.zeros(own.count, dtype=torch.bool)
    for slices in own.slices:
        if slices.role == "consumer" and slices.tensor not in is_zero:
            read[slices.owner[slices.owner >= 0]] = True
        elif slices.role == "consumer":
            positions = ~_is_zero_along(slices, is_zero[slices.tensor], kept.get(slices.tensor, {}))
            owned = slices.owner[positions.cpu() & (slices.owner >= 0)]
            read[owned] = True
    return read


def _is_zero_along(slices: TensorSlices, zero: Tensor, kept: Mapping[int, Tensor]) -> Tensor:
    for dim, positions in kept.items():
        if dim != slices.dim:
            zero = zero.index_select(dim, positions.to(zero.device))
    return zero.movedim(slices.dim, 0).flatten(1).all(dim=1)
