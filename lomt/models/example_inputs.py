"""Example inputs from texts such as `1x3x224x224`, `mask=1x1x64x64` or `tokens=1x16:int64`."""

import re
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["parse_inputs"]

DTYPES = ("float32", "float64", "float16", "bfloat16", "int64", "int32", "uint8", "bool")
"""Types that a text may end with."""

_FORM = re.compile(r"(?:(?P<name>[^=:]+)=)?(?P<shape>[0-9]+(?:x[0-9]+)*)(?::(?P<dtype>\w+))?")


def parse_inputs(texts: Sequence[str], seed: int = 0) -> Tensor | tuple[Tensor, ...] | dict[str, Tensor]:
    """Make random tensors of the shapes that texts name.

    Example:
        >>> parse_inputs(["1x3x8x8"]).shape
        torch.Size([1, 3, 8, 8])
        >>> {name: value.dtype for name, value in parse_inputs(["image=1x3x8x8", "ids=1x4:int64"]).items()}
        {'image': torch.float32, 'ids': torch.int64}

    Args:
        texts: Each `[NAME=]SIZExSIZE...[:DTYPE]`; all of them have a name, or none.
        seed: Seed of the values: normal for floating-point types, 0 or 1 for the others, so that they are
            valid as indices.

    Returns:
        One text without a name gives a tensor, several a tuple for positional arguments, texts with names a
        dictionary for keyword arguments.

    Raises:
        ValueError: There is no text, or one cannot be read, or some have names and some have not.
    """
    if not texts:
        raise ValueError("Expected at least one `--input`, such as 1x3x224x224, but got none.")
    generator = torch.Generator().manual_seed(seed)
    named = [_parse(text, generator) for text in texts]
    names = [name for name, _ in named if name is not None]
    if not names:
        return named[0][1] if len(named) == 1 else tuple(value for _, value in named)
    if len(names) < len(named) or len(set(names)) < len(names):
        raise ValueError(
            "Expected every `--input` to have a name of its own, or none to have one, "
            f"but got {', '.join(texts)}."
        )
    return {name: value for name, value in named if name is not None}


def _parse(text: str, generator: torch.Generator) -> tuple[str | None, Tensor]:
    match = _FORM.fullmatch(text.strip())
    sizes = [int(size) for size in match["shape"].split("x")] if match else []
    if match is None or 0 in sizes:
        raise ValueError(
            "Expected `--input` to be a shape such as 1x3x224x224, with a name (image=1x3x224x224) or a type "
            f"(1x16:int64) where needed, but got {text}."
        )
    dtype = match["dtype"] or "float32"
    if dtype not in DTYPES:
        raise ValueError(f"Expected the type of `--input` to be one of {', '.join(DTYPES)}, but got {text}.")
    return match["name"], _random(sizes, getattr(torch, dtype), generator)


def _random(sizes: list[int], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    if dtype.is_floating_point:
        return torch.randn(sizes, generator=generator).to(dtype)
    return torch.randint(0, 2, sizes, generator=generator).to(dtype)
