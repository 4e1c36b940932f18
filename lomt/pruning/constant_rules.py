"""When the result of an operation is constant: products with zeros, and what keeps a constant even."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["SHAPE_ONLY", "even_values", "ignored_operands", "is_zero", "keeps_even", "operation_name"]

_FACTORS: Mapping[str, tuple[str, ...]] = {
    "convolution": ("input", "weight"),
    "_convolution": ("input", "weight"),
    "linear": ("input", "weight"),
    "mm": ("self", "mat2"),
    "bmm": ("self", "mat2"),
    "mv": ("self", "vec"),
    "addmm": ("mat1", "mat2"),
    "baddbmm": ("batch1", "batch2"),
    "mul": ("self", "other"),
    "native_batch_norm": ("input", "weight"),
    "_native_batch_norm_legit_no_training": ("input", "weight"),
    "cudnn_batch_norm": ("input", "weight"),
    "_batch_norm_no_update": ("input", "weight"),
    "native_layer_norm": ("input", "weight"),
    "native_group_norm": ("input", "weight"),
}
"""Operands that are multiplied with each other; what else an operation has is added."""

SHAPE_ONLY = frozenset(
    {
        "zeros_like",
        "ones_like",
        "empty_like",
        "full_like",
        "new_zeros",
        "new_ones",
        "new_empty",
        "new_full",
        "new_empty_strided",
    }
)
"""Operations that look at the shape of what they are given, not at its values."""

_EVEN = frozenset(
    {
        *_FACTORS,
        "mean",
        "clone",
        "_to_copy",
        "cat",
        "stack",
        "adaptive_avg_pool2d",
        "_adaptive_avg_pool2d",
        "adaptive_max_pool2d",
        "max_pool2d_with_indices",
        "max_pool2d",
        "avg_pool2d",
        "upsample_nearest2d",
        "upsample_bilinear2d",
        "_unsafe_view",
        "native_dropout",
        "_prelu_kernel",
        "prelu",
        "constant_pad_nd",
    }
) - {"bmm", "baddbmm"}
"""Operations that put out the same everywhere when all they read is the same everywhere, whatever the size."""


def operation_name(func: Any) -> str:
    """Return ATen's name without overload; ``add`` for ``add_`` as well."""
    name = str(func.overloadpacket.__name__)
    return name[:-1] if name.endswith("_") and not name.startswith("__") else name


def is_zero(tensor: Tensor) -> bool:
    """Whether a tensor has entries and all are zero."""
    return tensor.numel() > 0 and not bool(tensor.any())


def ignored_operands(
    func: Any, given: Mapping[str, Any], is_constant: Callable[[Tensor], bool]
) -> list[Tensor]:
    """Find operands that are multiplied by constant zeros, so that they cannot matter while they are finite.

    Args:
        func: The operation.
        given: Its arguments by the names of its schema.
        is_constant: Whether a tensor is independent of the network's inputs.
    """
    factors = [given.get(name) for name in _FACTORS.get(operation_name(func), ())]
    tensors = [own for own in factors if isinstance(own, Tensor)]
    for zeros in tensors:
        if len(tensors) == 2 and is_constant(zeros) and is_zero(zeros):
            return [own for own in tensors if own is not zeros]
    return []


def keeps_even(func: Any, given: Mapping[str, Any], ignored: list[Tensor]) -> bool:
    """Whether an operation puts out the same at all positions if it reads the same at all positions.

    A zero-padded convolution does so only if it reads nothing but zeros.

    Args:
        func: The operation.
        given: Its arguments by the names of its schema.
        ignored: Operands that it multiplies by zeros.
    """
    name = operation_name(func)
    if name not in _EVEN and torch.Tag.pointwise not in func.tags:
        return False
    features = given.get("input", given.get("self"))
    is_padded = any(given.get("padding") or ()) or given.get("transposed") or name == "constant_pad_nd"
    if "conv" in name or name in ("avg_pool2d", "constant_pad_nd"):
        is_nothing = features is not None and (any(own is features for own in ignored) or is_zero(features))
        return not is_padded or (is_nothing and not given.get("value"))
    return True


def even_values(tensor: Tensor) -> tuple[int | None, Tensor | None]:
    """Find what a constant consists of.

    Returns:
        The only dimension along which it varies, and its values along it; ``None`` and a single value if it varies
        nowhere; ``None`` twice if it varies in several dimensions, or in the first one, the batch.
    """
    if not tensor.is_floating_point() or tensor.ndim < 2 or not tensor.numel():
        return None, None
    dims = [dim for dim in range(tensor.ndim) if not _is_even_along(tensor, dim)]
    if len(dims) > 1 or dims == [0]:
        return None, None
    if not dims:
        return None, tensor.flatten()[:1].clone()
    index: list[Any] = [0] * tensor.ndim
    index[dims[0]] = slice(None)
    return dims[0], tensor[tuple(index)].clone()


def _is_even_along(tensor: Tensor, dim: int) -> bool:
    first = tensor.narrow(dim, 0, 1)
    # Vectorised arithmetic may round the last positions of a row differently.
    slack = 8 * torch.finfo(tensor.dtype).eps
    return torch.allclose(tensor, first.expand_as(tensor), rtol=slack, atol=0.0)
