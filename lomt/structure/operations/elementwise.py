"""Operations that work on every entry by itself, and those that make new tensors."""

from lomt.structure.operations.call import Call
from lomt.structure.spans import slice_up, unify

__all__ = ["elementwise", "halved", "made", "made_in_order", "prelu", "same", "written"]


def elementwise(call: Call) -> None:
    """Operands are broadcast against each other; their channels are one."""
    for place, result in enumerate(call.results):
        call.put_value(call.recording.align(call.operands, result.shape), place)


def written(call: Call) -> None:
    """What is written into a tensor is tied to it."""
    value = call.recording.align(call.operands, call.results[0].shape)
    call.put(call.operand("self").spans, value.origins)


def same(call: Call) -> None:
    """The result is laid out like the first operand."""
    first = call.operand("self", "input")
    for place in range(len(call.results)):
        call.put_value(first, place)


def made(call: Call) -> None:
    """A new tensor, whose channels are free until something ties them."""
    call.put_unknown(None)


def made_in_order(call: Call) -> None:
    """Numbers in their order: which ones go would matter."""
    call.put_unknown(f"aten.{call.name}: numbers in their order in {call.recording.where}")


def halved(call: Call) -> None:
    """Two halves, of which one gates the other."""
    value = call.operand("self")
    dim = call["dim"] % len(value.spans)
    first, second = slice_up(value.spans[dim], [value.spans[dim].size // 2] * 2)
    unify(first, second)
    call.put([*value.spans[:dim], first, *value.spans[dim + 1 :]])


def prelu(call: Call) -> None:
    """One slope a channel, or one for all."""
    value, weight = call.operand("self"), call.operand("weight")
    if len(weight.spans) == 1 and weight.spans[0].size > 1:
        unify(value.spans[1], weight.spans[0])
        call.put_value(value)
    else:
        elementwise(call)
