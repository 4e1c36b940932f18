"""From tensors to channels: sums over everything that belongs to one channel."""

import math
from collections.abc import Collection, Mapping

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from lomt.errors import ScoreError
from lomt.pruning.interfaces import Prunable
from lomt.structure.coupled_channels import CoupledChannels
from lomt.structure.trace import named_tensors

__all__ = [
    "Place",
    "float_tensors",
    "square_sum_by_position",
    "sum_by_channel",
    "sum_by_position",
    "to_float",
]

_AT_ONCE = 1 << 18  # numbers that stay in a processor's cache

Place = tuple[str, int]  # a tensor's name and one of its dimensions


def float_tensors(structure: Prunable, model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters, buffers and other tensors in which prunable channels have slices, by name.

    Tensors of whole numbers, such as indices, are left out.

    Raises:
        ScoreError: If the model is not the one that was traced, or a tensor has entries that are infinite or not a
            number.
    """
    known = named_tensors(model)
    found: dict[str, Tensor] = {}
    for part in (part for coupled in structure.prunable for part in coupled.slices):
        tensor = known.get(part.tensor)
        if tensor is None or part.dim >= tensor.ndim or tensor.shape[part.dim] != len(part.owner):
            raise ScoreError(_mismatch(part.tensor, part.dim, len(part.owner), tensor))
        if tensor.is_floating_point() and part.tensor not in found:
            _check_finite(part.tensor, tensor)
            found[part.tensor] = tensor
    return found


def sum_by_position(values: Float[Tensor, "..."], dim: int) -> Float[Tensor, " positions"]:
    """Sum over all dimensions but one.

    Args:
        values: Any tensor of at least one dimension.
        dim: The dimension to keep.

    Returns:
        A float64 vector on the CPU.
    """
    # Leading dimensions first, then trailing ones: over both at once torch takes ten times as long.
    outer, size, inner = math.prod(values.shape[:dim]), values.shape[dim], math.prod(values.shape[dim + 1 :])
    rows = values if outer == 1 else values.reshape(outer, size * inner).sum(0)
    return rows.reshape(size, inner).sum(1).cpu().double()


def square_sum_by_position(values: Float[Tensor, "..."], dim: int) -> Float[Tensor, " positions"]:
    """Sum the squares over all dimensions but one, without a second tensor of the same size.

    Args:
        values: Any tensor of at least one dimension.
        dim: The dimension to keep.

    Returns:
        A float64 vector on the CPU.
    """
    outer, size, inner = math.prod(values.shape[:dim]), values.shape[dim], math.prod(values.shape[dim + 1 :])
    if outer == 1:
        norms: Tensor = torch.linalg.vector_norm(values.reshape(size, inner), dim=1)
        return norms.cpu().double().square()
    rows = values.reshape(outer, size * inner)
    sums = torch.zeros(size * inner, dtype=torch.float64)
    for part in rows.split(max(1, _AT_ONCE // (size * inner or 1))):
        sums += part.square().sum(0).cpu()
    return sums.reshape(size, inner).sum(1)


def sum_by_channel(
    coupled: CoupledChannels, values: Mapping[Place, Shaped[Tensor, " positions"]], roles: Collection[str]
) -> Float[Tensor, " channels"]:
    """Sum, for every channel, the values at the positions that belong to it.

    Args:
        coupled: The coupled channels.
        values: One value a position, by tensor and dimension; slices of other places count nothing.
        roles: Roles of the slices that count.
    """
    sums = torch.zeros(coupled.count, dtype=torch.float64)
    for part in coupled.slices:
        if part.role in roles and (part.tensor, part.dim) in values:
            owner = part.owner.cpu()
            is_owned = owner >= 0
            sums.index_add_(0, owner[is_owned], values[part.tensor, part.dim][is_owned].double())
    return sums


def to_float(tensor: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return the values in float32 at least, without gradient."""
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))


def _check_finite(name: str, tensor: Tensor) -> None:
    # A sum needs no second tensor of the same size; where it is not finite it may only have overflowed.
    tensor = tensor.detach()
    if not math.isfinite(tensor.sum()) and not tensor.isfinite().all():
        raise ScoreError(
            f"Expected the model's tensor `{name}` to have finite entries only, but some are infinite or not a "
            "number. Load other weights, or protect the layer."
        )


def _mismatch(name: str, dim: int, size: int, tensor: Tensor | None) -> str:
    got = "it has none of that name" if tensor is None else f"got shape {tuple(tensor.shape)}"
    return (
        f"Expected the model's tensor `{name}` to be of size {size} along dimension {dim}, but {got}. "
        "Give the model that the structure was traced from."
    )
