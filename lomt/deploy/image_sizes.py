"""Which image sizes a network takes: found by trying another one."""

from typing import Final

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.pool2d_same import AvgPool2dSame, MaxPool2dSame
from timm.layers.std_conv import ScaledStdConv2dSame, StdConv2dSame
from torch import Tensor, nn
from torch.nn import functional

from lomt.structure import named_outputs

__all__ = ["at_size", "other_size", "refusal"]

_PADDED_BY_SIZE: Final = (AvgPool2dSame, Conv2dSame, MaxPool2dSame, ScaledStdConv2dSame, StdConv2dSame)
"""Their padding follows from the image size; sizes behind many of them are more than the exporter can simplify."""

Size = tuple[int, int]
_STEP = 32
_FACTORS = (0.75, 1.25)


def other_size(height: int, width: int) -> Size:
    """Return another height and width of about the same area: multiples of 32, not equal, not those given.

    Example:
        >>> other_size(96, 128)
        (64, 160)
    """
    sizes_given = (height, width)
    sizes = [
        max(_STEP, _STEP * int(factor * own / _STEP + 0.5))
        for factor, own in zip(_FACTORS, sizes_given, strict=True)
    ]
    found = [size if size != own else size + _STEP for size, own in zip(sizes, sizes_given, strict=True)]
    height, width = found
    while width in (height, sizes_given[1]):
        width += _STEP
    return height, width


def at_size(images: Tensor, size: Size) -> Tensor:
    """Return images at another height and width, interpolated."""
    if tuple(images.shape[-2:]) == size:
        return images
    return functional.interpolate(images, size=size, mode="bilinear", align_corners=False)


def refusal(model: nn.Module, images: Tensor, size: Size) -> str:
    """Run a model at another image size and say why files of it take one only; an empty text if they need not.

    Args:
        model: In eval mode, on the CPU.
        images: Of the size that it takes.
        size: Height and width to try.
    """
    padded = [name for name, module in model.named_modules() if isinstance(module, _PADDED_BY_SIZE)]
    if padded:
        return f"the padding of layer `{padded[0]}` depends on the image size (TensorFlow's `same`)"
    try:
        with torch.no_grad():
            named_outputs(model(at_size(images, size)))
    except Exception as error:  # the model's own code: anything may be raised
        lines = str(error).strip().splitlines() or [""]
        return f"the model takes no images of {size[0]}x{size[1]}: {type(error).__name__}: {lines[0].rstrip('.')}"
    return ""
