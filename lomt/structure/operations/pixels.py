"""Operations on positions: pooling, resizing, shuffles between pixels and channels, windows."""

from lomt.structure.operations.call import Call, fix
from lomt.structure.recording import SPATIAL
from lomt.structure.spans import Span, multiply, regroup

__all__ = ["folded", "pooled", "shuffled", "unfolded", "windowed"]


def pooled(call: Call) -> None:
    """Pooling and resizing: all but the last dimensions pass."""
    value = call.operand("self", "input")
    count = next(digit for digit in (1, 2, 3) if f"{digit}d" in call.name)
    for span in value.spans[-count:]:
        span.fix(SPATIAL)
    fix([other for other in call.operands if other is not value], SPATIAL)
    for place, result in enumerate(call.results):
        kept = value.spans[: len(value.spans) - count]
        call.put([*kept, *(Span(size, SPATIAL) for size in result.shape[len(kept) :])], place=place)


def shuffled(call: Call) -> None:
    """Channels become pixels, or pixels channels, or groups of channels change places."""
    value = call.operand("self")
    spans = list(value.spans)
    channel = len(spans) - 3
    if call.name == "pixel_shuffle":
        factor = call["upscale_factor"]
        kept, *inner = regroup([spans[channel]], [spans[channel].size // factor**2, factor, factor])
        for span in inner:
            span.fix("pixels of a pixel shuffle")
        spans[channel] = kept
    elif call.name == "pixel_unshuffle":
        factor = call["downscale_factor"]
        spans[channel] = multiply([spans[channel], *(Span(factor, SPATIAL) for _ in range(2))])
    else:
        first, second = regroup([spans[1]], [call["groups"], spans[1].size // call["groups"]])
        spans[1] = multiply((second, first))
        call.put(spans)
        return
    for span in value.spans[-2:]:
        span.fix(SPATIAL)
    spans[-2:] = [Span(size, SPATIAL) for size in call.results[0].shape[-2:]]
    call.put(spans)


def unfolded(call: Call) -> None:
    """Windows become channels, the channels slowest."""
    value, result = call.operand("self"), call.results[0]
    channel = len(value.spans) - 3
    for span in value.spans[-2:]:
        span.fix(SPATIAL)
    window = Span(result.shape[-2] // value.spans[channel].size, SPATIAL)
    merged = multiply([value.spans[channel], window])
    call.put([*value.spans[:channel], merged, Span(result.shape[-1], SPATIAL)])


def folded(call: Call) -> None:
    """Channels become windows again."""
    value, result = call.operand("self"), call.results[0]
    channels = result.shape[-3]
    kept, window = regroup([value.spans[-2]], [channels, value.spans[-2].size // channels])
    window.fix(SPATIAL)
    value.spans[-1].fix(SPATIAL)
    call.put([*value.spans[:-2], kept, *(Span(size, SPATIAL) for size in result.shape[-2:])])


def windowed(call: Call) -> None:
    """Windows become a new last dimension."""
    value, dim = call.operand("self"), call["dimension"]
    value.spans[dim].fix(SPATIAL)
    spans = [*value.spans, Span(call["size"], SPATIAL)]
    spans[dim] = Span(call.results[0].shape[dim], SPATIAL)
    call.put(spans)
