"""Spans: which indices along the dimensions of different tensors stand for the same channels.

Every dimension of every tensor in a network has a span. Two dimensions whose indices are tied to each other,
because the tensors are added, say, or because one is contracted with the other, share one span. A reshape makes
a span the product of others, a concatenation makes it their sequence. What is left whole in the end, the leaves,
are the sets of channels that can be shortened independently of each other.
"""

from collections.abc import Iterable, Iterator, Sequence
from math import prod

import torch
from jaxtyping import Int
from torch import Tensor

__all__ = ["Span", "join", "multiply", "owners", "regroup", "slice_up", "unify"]


class Span:
    """The indices along one dimension; a leaf, or made of other spans.

    Args:
        size: How many indices.
        fixed: Why no index may go; ``None`` while nothing speaks against it.
        factors: Spans whose product it is, the slowest index first.
        pieces: Spans that follow one another in it.
    """

    __slots__ = ("_factors", "_fixed", "_link", "_mixers", "_pieces", "size")

    def __init__(
        self,
        size: int,
        fixed: str | None = None,
        *,
        factors: Sequence["Span"] = (),
        pieces: Sequence["Span"] = (),
    ) -> None:
        self.size = size
        self._fixed = fixed
        self._mixers: dict[str, None] = {}
        self._link: Span | None = None
        self._factors, self._pieces = tuple(factors), tuple(pieces)

    @property
    def root(self) -> "Span":
        """The span that stands for this one after all unifications."""
        root = self
        while root._link is not None:
            root = root._link
        if self._link is not None and self._link is not root:
            self._link = root
        return root

    @property
    def factors(self) -> tuple["Span", ...]:
        """What it is the product of, none of size one, none itself a product; itself if it is no product."""
        root = self.root
        if not root._factors:
            return (root,) if root.size != 1 else ()
        return tuple(factor for own in root._factors for factor in own.factors)

    @property
    def pieces(self) -> tuple["Span", ...]:
        """What follows one another in it, none itself a sequence; itself if it is no sequence."""
        root = self.root
        if not root._pieces:
            return (root,)
        return tuple(piece for own in root._pieces for piece in own.pieces)

    @property
    def is_leaf(self) -> bool:
        """Whether it is neither a product nor a sequence."""
        root = self.root
        return not root._factors and not root._pieces

    @property
    def fixed(self) -> str | None:
        """Why no index of this leaf may go."""
        return self.root._fixed

    @property
    def mixers(self) -> tuple[str, ...]:
        """What computes with all channels of this leaf at once."""
        return tuple(self.root._mixers)

    def leaves(self) -> Iterator["Span"]:
        """Go through the leaves it is made of; one that occurs twice is met twice."""
        root = self.root
        if root.is_leaf:
            yield root
        for part in (*root._factors, *root._pieces):
            yield from part.leaves()

    def fix(self, reason: str) -> None:
        """Keep all indices; the first reason counts."""
        for leaf in self.leaves():
            if leaf._fixed is None:
                leaf._fixed = reason

    def mix(self, who: str) -> None:
        """Note an operation that computes with all indices at once."""
        for leaf in self.leaves():
            leaf._mixers[who] = None

    def become(self, other: "Span") -> None:
        """Make a leaf the same as another span of its size."""
        root, target = self.root, other.root
        if root is target:
            return
        root._link = target
        if root._fixed is not None:
            target.fix(root._fixed)
        for who in root._mixers:
            target.mix(who)


def multiply(factors: Sequence[Span]) -> Span:
    """Return the span of a dimension that merges several, the slowest first."""
    kept = [span for own in factors for span in own.factors]
    if len(kept) == 1:
        return kept[0]
    return Span(prod(span.size for span in kept), factors=kept) if kept else Span(1)


def join(pieces: Sequence[Span]) -> Span:
    """Return the span of a concatenation."""
    kept = [span for own in pieces for span in own.pieces if span.size]
    if len(kept) == 1:
        return kept[0]
    return Span(sum(span.size for span in kept), pieces=kept) if kept else Span(0)


def unify(first: Span, second: Span) -> None:
    """Tie two dimensions index by index.

    Where their make-up cannot be brought together (a product against a sequence that does not fit) all of
    their indices are fixed.
    """
    first, second = first.root, second.root
    if first is second:
        return
    if first.size != second.size:
        _fix_all((first, second), "sizes that do not agree")
    elif first.is_leaf:
        first.become(second)
    elif second.is_leaf:
        second.become(first)
    elif first._pieces and second._pieces:
        _unify_pieces(first, second)
    elif first._factors and second._factors:
        _unify_factors(first, second)
    else:
        sequence, product = (first, second) if first._pieces else (second, first)
        cut = _cut(product, [piece.size for piece in sequence.pieces])
        if cut is None:
            _fix_all((first, second), "a reshape that does not fit a concatenation")
        else:
            for own, other in zip(cut, sequence.pieces, strict=True):
                unify(own, other)


def slice_up(span: Span, sizes: Sequence[int]) -> list[Span]:
    """Return the spans of consecutive parts of a dimension.

    Args:
        span: Of the whole dimension.
        sizes: Of the parts; they add up to the whole.
    """
    cut = _cut(span, sizes)
    if cut is None:
        span.fix("a split across its inner order")
        return [Span(size, "a split across its inner order") for size in sizes]
    return cut


def regroup(spans: Iterable[Span], sizes: Sequence[int]) -> list[Span]:
    """Return the spans of a tensor after a reshape in memory order.

    Args:
        spans: Of the dimensions before.
        sizes: Of the dimensions after.
    """
    if 0 in sizes:
        return [Span(size, "an empty tensor") for size in sizes]
    waiting = _merge_fixed([factor for span in spans for factor in span.factors])
    result: list[Span] = []
    for size in sizes:
        taken = _take(waiting, size)
        if taken is None:
            reason = "a reshape that does not fit its inner order"
            for factor in waiting:
                factor.fix(reason)
            return [*result, *(Span(rest, reason) for rest in sizes[len(result) :])]
        result.append(multiply(taken))
    return result


def owners(span: Span) -> dict[Span, Int[Tensor, " size"]]:
    """Say for every leaf which of its channels each index belongs to, -1 where none.

    A leaf that one index belongs to twice is fixed, and left out.
    """
    root = span.root
    if root.is_leaf:
        return {root: torch.arange(root.size)}
    found: dict[Span, Tensor] = {}
    start, inner = 0, root.size
    for part in root._factors or root._pieces:
        for leaf, index in owners(part).items():
            if root._factors:
                spread = index.repeat_interleave(inner // part.size).repeat(root.size // inner)
            else:
                spread = torch.full((root.size,), -1)
                spread[start : start + part.size] = index
            if leaf in found and bool(((found[leaf] >= 0) & (spread >= 0)).any()):
                leaf.fix("it occurs twice in one dimension")
            found[leaf] = torch.maximum(found[leaf], spread) if leaf in found else spread
        if root._factors:
            inner //= part.size
        start += part.size
    return found


def _merge_fixed(factors: Sequence[Span]) -> list[Span]:
    """Forget how neighbouring factors that stay anyway were told apart: pixels are regrouped in many ways."""
    merged: list[Span] = []
    for factor in factors:
        reason = _all_fixed(factor)
        if reason is None:
            merged.append(factor)
        elif merged and _all_fixed(merged[-1]):
            merged[-1] = Span(merged[-1].size * factor.size, reason)
        else:
            merged.append(factor if factor.is_leaf else Span(factor.size, reason))
    return merged


def _all_fixed(span: Span) -> str | None:
    """Why no index of a span may go; ``None`` if some may."""
    reasons = [leaf.fixed for leaf in span.leaves()]
    return None if None in reasons else reasons[0]


def _take(waiting: list[Span], size: int) -> list[Span] | None:
    """Take factors of a total size off the front; None where the front does not divide so."""
    taken: list[Span] = []
    while size > 1:
        if not waiting:
            return None
        front = waiting.pop(0)
        if front.size > size:
            halves = _factor(front, size) if front.size % size == 0 else None
            if halves is None:
                waiting.insert(0, front)
                for span in taken:
                    span.fix("a reshape that does not fit its inner order")
                return None
            waiting[:0] = halves[1].factors
            front = halves[0]
        if size % front.size:
            waiting.insert(0, front)
            for span in taken:
                span.fix("a reshape that does not fit its inner order")
            return None
        size //= front.size
        taken.append(front)
    return taken


def _factor(span: Span, outer: int) -> tuple[Span, Span] | None:
    """Write a span, not itself a product, as a product of two."""
    span, inner = span.root, span.size // outer
    if span.is_leaf:
        parts = (_like(span, outer), _like(span, inner))
        if span.fixed is None:
            _rewrite(span, Span(span.size, factors=parts))
        return parts
    if span._factors:
        waiting = list(span.factors)
        front = _take(waiting, outer)
        return None if front is None else (multiply(front), multiply(waiting))
    if any(piece.size % inner for piece in span.pieces):
        return None
    shared, outers = Span(inner), []
    for piece in span.pieces:
        own = Span(piece.size // inner)
        unify(piece, multiply((own, shared)))
        outers.append(own)
    return join(outers), shared


def _cut(span: Span, sizes: Sequence[int]) -> list[Span] | None:
    """Write a span as a sequence of parts with the given sizes."""
    span, sizes = span.root, list(sizes)
    if len(sizes) == 1:
        return [span]
    if span.is_leaf:
        parts = [_like(span, size) for size in sizes]
        if span.fixed is None:
            _rewrite(span, join(parts))
        return parts
    if span._factors:
        first, *rest = span.factors
        inner = span.size // first.size
        if any(size % inner for size in sizes):
            return None
        cut = _cut(first, [size // inner for size in sizes])
        return None if cut is None else [multiply((part, *rest)) for part in cut]
    return _cut_pieces(list(span.pieces), sizes)


def _cut_pieces(waiting: list[Span], sizes: Sequence[int]) -> list[Span] | None:
    result = []
    for size in sizes:
        taken: list[Span] = []
        while size:
            front = waiting.pop(0)
            if front.size > size:
                halves = _cut(front, (size, front.size - size))
                if halves is None:
                    return None
                front, rest = halves
                waiting[:0] = rest.pieces
            taken += front.pieces
            size -= front.size
        result.append(join(taken))
    return result


def _unify_pieces(first: Span, second: Span) -> None:
    cut = _cut(first, [piece.size for piece in second.pieces])
    if cut is None:
        _fix_all((first, second), "concatenations that do not fit")
        return
    for own, other in zip(cut, second.pieces, strict=True):
        # A piece may have been cut further: only then it is a sequence, and a shorter one than before.
        unify(own, other)


def _unify_factors(first: Span, second: Span) -> None:
    left, right = _merge_fixed(first.factors), _merge_fixed(second.factors)
    while left and right:
        size = min(left[0].size, right[0].size)
        own, other = _take(left, size), _take(right, size)
        if own is None or other is None:
            _fix_all((first, second), "reshapes that do not fit each other")
            return
        unify(multiply(own), multiply(other))


def _like(span: Span, size: int) -> Span:
    part = Span(size, span.fixed)
    for who in span.mixers:
        part.mix(who)
    return part


def _rewrite(leaf: Span, made: Span) -> None:
    """Say that a leaf is made of others, which have its properties already."""
    leaf.root._link = made.root


def _fix_all(spans: Iterable[Span], reason: str) -> None:
    for span in spans:
        span.fix(reason)
