"""Operations that lay entries out anew: reshapes, permutations, concatenations, cuts."""

from lomt.structure.operations.call import Call, fix, unknown
from lomt.structure.operations.elementwise import same
from lomt.structure.spans import Span, join, multiply, regroup, slice_up, unify

__all__ = [
    "concatenated",
    "cut_out",
    "expanded",
    "indexed",
    "looked_up",
    "padded",
    "permuted",
    "picked",
    "repeated",
    "reshaped",
    "restrided",
    "selected",
    "split",
    "squeezed",
    "stacked",
    "unsqueezed",
]


def reshaped(call: Call) -> None:
    """Dimensions are merged and divided in memory order."""
    call.put_value(call.operand("self").group(call.results[0].shape))


def permuted(call: Call) -> None:
    """Dimensions change places."""
    value = call.operand("self")
    count = len(value.spans)
    order = list(range(count))
    if call.name == "permute":
        order = [dim % count for dim in call["dims"]]
    elif count > 1:
        first, second = (call["dim0"], call["dim1"]) if call.name == "transpose" else (0, 1)
        order[first], order[second] = order[second], order[first]
    call.put([value.spans[dim] for dim in order], [value.origins[dim] for dim in order])


def restrided(call: Call) -> None:
    """Pooling to one pixel relabels memory; other uses of strides are not followed."""
    if [span.size for span in call.operand("self").spans] == list(call["size"]):
        same(call)
    else:
        unknown(call)


def expanded(call: Call) -> None:
    """Dimensions of size one are broadcast."""
    call.put_value(call.recording.align([call.operand("self")], call.results[0].shape))


def repeated(call: Call) -> None:
    """Copies stand behind one another, slower than what they copy."""
    value, counts = call.operand("self"), call["repeats"]
    new = len(counts) - len(value.spans)
    spans = [*(Span(1) for _ in range(new)), *value.spans]
    made = [
        multiply((Span(count, "repeated features"), span)) for count, span in zip(counts, spans, strict=True)
    ]
    call.put(made, [*([frozenset()] * new), *value.origins])


def cut_out(call: Call) -> None:
    """A run of indices, or every so many."""
    value, dim = call.operand("self"), call["dim"]
    dim %= len(value.spans)
    span, size = value.spans[dim], call.results[0].shape[dim]
    start = min(max((call["start"] or 0) + (span.size if (call["start"] or 0) < 0 else 0), 0), span.size)
    spans = list(value.spans)
    spans[dim] = _strided(span, start, call["step"]) if call["step"] != 1 else _window(span, start, size)
    if spans[dim].size != size:
        span.fix("every so many indices are taken")
        spans[dim] = Span(size, "every so many indices are taken")
    call.put(spans, value.origins)


def _window(span: Span, start: int, size: int) -> Span:
    if size == span.size:
        return span
    sizes = [start, size, span.size - start - size]
    parts = slice_up(span, [own for own in sizes if own])
    return parts[1 if start else 0] if size else Span(0)


def _strided(span: Span, start: int, step: int) -> Span:
    if span.size % step or start >= step:
        span.fix("every so many indices are taken")
        return Span(-1)
    outer, inner = (multiply(part) for part in ([own] for own in regroup([span], [span.size // step, step])))
    inner.fix("every so many indices are taken")
    return outer


def split(call: Call) -> None:
    """Parts that follow one another."""
    value = call.operand("self")
    dim = call["dim"] % len(value.spans)
    parts = slice_up(value.spans[dim], [result.shape[dim] for result in call.results])
    if isinstance(
        call.arguments.get("split_size"), int
    ):  # equal parts were asked for, and have to stay equal
        for part in parts[1:]:
            if part.size == parts[0].size:
                unify(parts[0], part)
    for place, part in enumerate(parts):
        spans = [*value.spans[:dim], part, *value.spans[dim + 1 :]]
        call.put(spans, value.origins, place=place)


def picked(call: Call) -> None:
    """Single indices, whose dimension goes away."""
    value = call.operand("self")
    dim = call["dim"] % len(value.spans)
    value.spans[dim].fix(f"single indices are taken in {call.recording.where}")
    rest = [place for place in range(len(value.spans)) if place != dim]
    for place in range(len(call.results)):
        call.put([value.spans[own] for own in rest], [value.origins[own] for own in rest], place=place)


def unsqueezed(call: Call) -> None:
    """A new dimension of size one."""
    value = call.operand("self")
    dim = call["dim"] % (len(value.spans) + 1)
    spans, origins = list(value.spans), list(value.origins)
    spans.insert(dim, Span(1))
    origins.insert(dim, frozenset())
    call.put(spans, origins)


def squeezed(call: Call) -> None:
    """Dimensions of size one go away."""
    value = call.operand("self")
    asked = call.arguments.get("dim")
    dims = range(len(value.spans)) if asked is None else [asked] if isinstance(asked, int) else asked
    gone = {dim % len(value.spans) for dim in dims if value.spans and value.spans[dim].size == 1}
    kept = [dim for dim in range(len(value.spans)) if dim not in gone]
    call.put([value.spans[dim] for dim in kept], [value.origins[dim] for dim in kept])


def concatenated(call: Call) -> None:
    """One behind the other."""
    values = [call.recording.value(tensor) for tensor in call["tensors"]]
    values = [value for value in values if [span.size for span in value.spans] != [0]]
    count = len(values[0].spans)
    dim = call["dim"] % count
    origins = [frozenset().union(*(value.origins[own] for value in values)) for own in range(count)]
    spans = []
    for own in range(count):
        if own == dim:
            spans.append(join([value.spans[own] for value in values]))
            continue
        for value in values[1:]:
            unify(values[0].spans[own], value.spans[own])
        spans.append(values[0].spans[own])
    call.put(spans, origins)


def stacked(call: Call) -> None:
    """Side by side in a new dimension."""
    values = [call.recording.value(tensor) for tensor in call["tensors"]]
    shape = [span.size for span in values[0].spans]
    aligned = call.recording.align(values, shape)
    dim = call["dim"] % (len(shape) + 1)
    spans, origins = aligned.spans, aligned.origins
    spans.insert(dim, Span(len(values), "stacked features"))
    origins.insert(dim, frozenset())
    call.put(spans, origins)


def padded(call: Call) -> None:
    """Constants before and behind."""
    value = call.operand("self")
    spans = list(value.spans)
    for place in range(len(call["pad"]) // 2):
        before, after = call["pad"][2 * place : 2 * place + 2]
        dim = len(spans) - 1 - place
        size = call.results[0].shape[dim]
        if before < 0 or after < 0:
            spans[dim].fix("cropped features")
            spans[dim] = Span(size, "cropped features")
        elif before or after:
            ends = [Span(own, "padding") for own in (before, after)]
            spans[dim] = join([ends[0], spans[dim], ends[1]])
    call.put(spans, value.origins)


def indexed(call: Call) -> None:
    """Indices by tensors, which stay as they are."""
    value = call.operand("self")
    indices = call["indices"]
    dims = [dim for dim, index in enumerate(indices) if index is not None]
    reason = f"indexing in {call.recording.where}"
    for dim in dims:
        value.spans[dim].fix(reason)
    fix([call.recording.value(indices[dim]) for dim in dims], reason)
    kept = [dim for dim in range(len(value.spans)) if dim not in dims]
    new = [Span(size, reason) for size in call.results[0].shape]
    is_together = dims == list(range(dims[0], dims[0] + len(dims)))
    start = dims[0] if is_together else 0
    count = len(new) - len(kept)
    for place, dim in enumerate(kept):
        new[place if place < start else place + count] = value.spans[dim]
    call.put(new)


def looked_up(call: Call) -> None:
    """Rows of an embedding."""
    weight, index = call.operand("weight"), call.operand("indices")
    weight.spans[0].fix("rows of an embedding")
    if not weight.memory.is_live:
        call.recording.note_weight(weight, reads=[0])
    call.put([*index.spans, weight.spans[1]])


def selected(call: Call) -> None:
    """Indices of one dimension by a tensor."""
    value = call.operand("self")
    dim = call["dim"] % len(value.spans)
    value.spans[dim].fix(f"indexing in {call.recording.where}")
    spans = list(value.spans)
    spans[dim] = Span(call.results[0].shape[dim], "indexing")
    call.put(spans)
