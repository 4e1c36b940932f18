"""Operations that compute with all entries along a dimension: norms, reductions, softmax."""

from lomt.structure.operations.call import Call
from lomt.structure.recording import Recording
from lomt.structure.spans import Span, regroup, unify

__all__ = ["batch_normed", "fixed_along", "group_normed", "layer_normed", "reduced"]


_ADDITIVE = frozenset(
    ["sum", "mean", "var", "std", "var_mean", "std_mean", "norm", "linalg_vector_norm", "nansum"]
)


def fixed_along(call: Call) -> None:
    """Along the dimension the number and the order of indices matter."""
    value = call.operand("self")
    count = max(len(value.spans), 1)
    asked = call.arguments.get("dim", call.arguments.get("dims"))
    dims = range(count) if asked is None else [asked] if isinstance(asked, int) else asked or range(count)
    reason = f"aten.{call.name} along channels in {call.recording.where}"
    spans = list(value.spans)
    for dim in dims:
        if spans:
            spans[dim].fix(reason)
    for place, result in enumerate(call.results):
        own = [
            span if span.size == size else Span(size, reason)
            for span, size in zip(spans, result.shape, strict=False)
        ]
        fits = result.ndim == len(spans)
        call.put(own if fits else [Span(size, reason) for size in result.shape], place=place)


def reduced(call: Call) -> None:
    """Sums, means and norms mix what they go over; maxima and the like keep it."""
    value = call.operand("self")
    count = len(value.spans)
    asked = call.arguments.get("dim")
    dims = [asked] if isinstance(asked, int) else list(asked or range(count))
    dims = [dim % count for dim in dims] if count else []
    for dim in dims:
        if call.name in _ADDITIVE:
            value.spans[dim].mix(f"aten.{call.name} in {call.recording.where}")
        else:
            value.spans[dim].fix(f"aten.{call.name} along channels in {call.recording.where}")
    for place, result in enumerate(call.results):
        is_kept = result.ndim == count and bool(count)
        spans = [
            Span(1) if dim in dims else span
            for dim, span in enumerate(value.spans)
            if is_kept or dim not in dims
        ]
        call.put(spans, place=place)


def layer_normed(call: Call) -> None:
    """Statistics over the last dimensions, which mixes them."""
    recording, value = call.recording, call.operand("input")
    sizes = call["normalized_shape"]
    last = value.spans[len(value.spans) - len(sizes) :]
    for place, span in enumerate(last):
        span.mix(_normaliser(recording))
        recording.tie(recording.layer, "normalized_shape", span, place)
    for name in ("weight", "bias"):
        if (own := call.value(name)) is not None:
            for span, other in zip(last, own.spans, strict=True):
                unify(span, other)
    call.put_value(value)
    call.put_unknown("a by-product of a norm", start=1)


def group_normed(call: Call) -> None:
    """Statistics over each group's channels, which mixes these but not the groups."""
    recording, value = call.recording, call.operand("input")
    channels, groups = value.spans[1], call.arguments.get("group", call.arguments.get("num_groups"))
    block, own = regroup([channels], [groups, channels.size // groups])
    if own.size > 1:
        own.mix(_normaliser(recording))
    recording.tie(recording.layer, "num_groups", block)
    recording.tie(recording.layer, "num_channels", channels)
    for name in ("weight", "bias"):
        if (given := call.value(name)) is not None:
            unify(channels, given.spans[0])
    call.put_value(value)
    call.put_unknown("a by-product of a norm", start=1)


def batch_normed(call: Call) -> None:
    """Channels by themselves; over images and positions where statistics are computed now."""
    value = call.operand("input")
    for name in ("weight", "bias", "running_mean", "running_var"):
        if (own := call.value(name)) is not None:
            unify(value.spans[1], own.spans[0])
    if call.value("weight") is None and call.value("running_mean") is None:
        _tie_features(call.recording, value.spans[1])
    is_computed = call.arguments.get("training", False) or call.value("running_mean") is None
    if is_computed:
        for dim, span in enumerate(value.spans):
            if dim != 1:
                span.mix(_normaliser(call.recording))
    call.put_value(value)
    call.put_unknown("a by-product of a norm", start=1)


def _tie_features(recording: Recording, channels: Span) -> None:
    """A norm without weights knows its channels only as a number; an instance norm runs on images times channels."""
    count = getattr(recording.modules.get(recording.layer), "num_features", None)
    if isinstance(count, int) and count > 0 and channels.size % count == 0:
        _, own = regroup([channels], [channels.size // count, count])
        recording.tie(recording.layer, "num_features", own)


def _normaliser(recording: Recording) -> str:
    return f"the normalisation {recording.where}"
