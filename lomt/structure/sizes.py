"""Numbers that modules keep about themselves, watched on their way into a reshape.

A module says ``x.reshape(batch, tokens, self.num_heads, self.head_dim)``. When heads go, ``num_heads`` has to
change with them. While a network is traced its whole-number attributes are therefore replaced by integers that
remember where they come from; where one turns up as the size of a dimension, the attribute is tied to that
dimension's span.
"""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jaxtyping
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name

from lomt.structure.free_sizes import WrittenSize
from lomt.structure.recording import Recording

__all__ = ["SizeWatch", "watched_sizes"]

_TORCH = f"{Path(torch.__file__).parent}{os.sep}"
_CHECKS = f"{Path(jaxtyping.__file__).parent}{os.sep}"


class _Known(int):
    """An integer that remembers the attribute it was read from, and how many times it the attribute is."""

    module: str
    attribute: str
    index: int | None
    times: int

    def __new__(
        cls, value: int, module: str, attribute: str, index: int | None = None, times: int = 1
    ) -> "_Known":
        known = super().__new__(cls, value)
        known.module, known.attribute, known.index, known.times = module, attribute, index, times
        return known

    def __floordiv__(self, other: int) -> int:
        share = int(self) // int(other)
        if type(other) is not int or share * other != int(self):
            return share
        return _Known(share, self.module, self.attribute, self.index, self.times * other)

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        return int, (int(self),)


@contextmanager
def watched_sizes(model: nn.Module) -> Iterator[None]:
    """Let the whole-number attributes of all modules of our users' own classes remember their place."""
    replaced: list[tuple[dict[str, Any], str, Any]] = []
    for path, module in model.named_modules():
        if type(module).__module__.startswith("torch.nn."):
            continue
        own = vars(module)
        for name, value in list(own.items()):
            known = _known(value, path, name)
            if known is not None:
                replaced.append((own, name, value))
                own[name] = known
    try:
        yield
    finally:
        for own, name, value in replaced:
            if own.get(name) == value:
                own[name] = value


def _known(value: Any, path: str, name: str) -> Any:
    if type(value) is int and value > 1:
        return _Known(value, path, name)
    if type(value) in (list, tuple) and value and all(type(entry) is int for entry in value):
        return type(value)(
            _Known(entry, path, name, index) if entry > 1 else entry for index, entry in enumerate(value)
        )
    return None


class SizeWatch(TorchFunctionMode):
    """Ties attributes that are handed to an operation as the size of a dimension.

    Args:
        recording: Where ties are noted, and where results are looked up.
    """

    def __init__(self, recording: Recording) -> None:
        super().__init__()
        self._recording = recording

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run the function, then look at the sizes it was given."""
        kwargs = dict(kwargs or {})
        result = func(*args, **kwargs)
        name = _name(func)
        if name in ("reshape", "view") and isinstance(result, Tensor):
            self._note_written(_flat(args[1:]), result)
        if any(_has_known(value) for value in (*args, *kwargs.values())):
            self._note(name, args, kwargs, result)
        return result

    def _note_written(self, sizes: list[Any], result: Tensor) -> None:
        """Note the dimensions that a reshape is given as plain numbers."""
        if len(sizes) != result.ndim:
            return
        plain = tuple(dim for dim, size in enumerate(sizes) if type(size) is int and size > 1)
        place = _caller() if plain else None
        if place is None:
            return
        module, function, line = place
        path = self._recording.paths.get(module)
        if path is not None:
            spans = tuple(self._recording.value(result).spans)
            has_free = any(size == -1 for size in sizes)
            self._recording.written.append(WrittenSize(path, function, line, plain, spans, has_free))

    def _note(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any) -> None:
        if name in ("reshape", "view", "expand", "zeros", "ones", "empty", "full", "new_zeros", "new_ones"):
            sizes = kwargs.get("size", kwargs.get("shape"))
            given = [value for value in args if not isinstance(value, Tensor)] if sizes is None else sizes
            self._tie_dims(_flat(given), result, 0)
        elif name == "unflatten":
            dim, sizes = (*args[1:], kwargs.get("dim"), kwargs.get("sizes"))[:2]
            self._tie_dims(_flat(sizes), result, dim % args[0].ndim)
        elif name in ("split", "split_with_sizes", "tensor_split"):
            sizes = args[1] if len(args) > 1 else next(iter(kwargs.values()))
            dim = kwargs.get("dim", args[2] if len(args) > 2 else 0)
            entries = [sizes] if isinstance(sizes, int) else sizes
            for size, part in zip(entries, result, strict=False):
                self._tie_dim(size, part, dim)
        elif name in ("layer_norm", "rms_norm"):
            sizes = _flat(args[1] if len(args) > 1 else kwargs["normalized_shape"])
            self._tie_dims(sizes, result, result.ndim - len(sizes))
        elif name == "narrow":
            self._tie_dim(args[3], result, args[1])
        elif name.startswith("conv") and self._recording.block is not None:
            groups = kwargs.get("groups", args[6] if len(args) > 6 else None)
            if isinstance(groups, _Known):
                self._recording.tie(groups.module, groups.attribute, self._recording.block, groups.index)
        elif name == "__getitem__":
            self._note_slices(args[1], result)

    def _note_slices(self, index: Any, result: Tensor) -> None:
        entries = index if isinstance(index, tuple) else (index,)
        if any(isinstance(entry, Tensor | list) or entry is None for entry in entries):
            return
        dim = 0
        for place, entry in enumerate(entries):
            if entry is Ellipsis:
                dim = result.ndim - (len(entries) - place - 1)
            elif isinstance(entry, slice):
                if isinstance(entry.stop, _Known) and not entry.start and entry.step in (None, 1):
                    self._tie_dim(entry.stop, result, dim)
                dim += 1

    def _tie_dims(self, sizes: list[Any], result: Tensor, first: int) -> None:
        for dim, size in enumerate(sizes, start=first):
            self._tie_dim(size, result, dim)

    def _tie_dim(self, size: Any, result: Any, dim: int) -> None:
        if isinstance(size, _Known) and isinstance(result, Tensor) and result.ndim > dim:
            span = self._recording.value(result).spans[dim]
            if span.size == size:
                self._recording.tie(size.module, size.attribute, span, size.index, size.times)


def _caller() -> tuple[nn.Module, str, int] | None:
    """The module method that called the reshape now under way, and the line in it."""
    frame = sys._getframe(1)
    while frame is not None and _is_between(frame.f_code.co_filename):
        frame = frame.f_back  # type: ignore[assignment]
    owner = frame.f_locals.get("self") if frame is not None else None
    if not isinstance(owner, nn.Module):
        return None
    return owner, frame.f_code.co_name, frame.f_lineno - frame.f_code.co_firstlineno


def _is_between(filename: str) -> bool:
    """Whether code stands between a model and its operation: torch's, ours, run-time checks of annotations."""
    return filename == __file__ or filename.startswith((_TORCH, _CHECKS)) or "<@beartype" in filename


def _has_known(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(_has_known(entry) for entry in value)
    if isinstance(value, slice):
        return isinstance(value.stop, _Known)
    return isinstance(value, _Known)


def _flat(values: Any) -> list[Any]:
    found: list[Any] = []
    for value in values:
        found += _flat(value) if isinstance(value, list | tuple) else [value]
    return found


def _name(func: Callable[..., Any]) -> str:
    return str(getattr(func, "__name__", "") or resolve_name(func) or "").rpartition(".")[2]
