"""Operations that sum over products: convolutions, matrix products, attention."""

from lomt.structure.operations.call import Call
from lomt.structure.recording import SPATIAL, Contraction, Value
from lomt.structure.spans import Span, multiply, regroup, unify

__all__ = ["attended", "convolved", "linear", "multiplied"]


def convolved(call: Call) -> None:
    """Convolutions of any number of dimensions, grouped or transposed or both."""
    recording = call.recording
    features, weight, bias = call.operand("input"), call.operand("weight"), call.value("bias")
    groups, is_transposed = call.arguments.get("groups", 1), bool(call.arguments.get("transposed"))
    channels, inputs, outputs = features.spans[1], weight.spans[1], weight.spans[0]
    if is_transposed:
        inputs, outputs = outputs, inputs
    block = Span(1)
    if groups > 1:
        block, own = regroup([channels], [groups, channels.size // groups])
        split = inputs if is_transposed else outputs
        other_block, per_block = regroup([split], [groups, split.size // groups])
        unify(block, other_block)
        if is_transposed:
            unify(own, per_block)
            outputs = multiply((block, outputs))
        else:
            unify(own, inputs)
        recording.tie(recording.layer, "groups", block)
        recording.block = block
        recording.scales.append((weight.origins[0], block))
        inputs = own
    else:
        unify(channels, inputs)
    if weight.memory.is_live:
        inputs.mix(f"a convolution with computed weights in {recording.where}")
    else:
        if not weight.memory.is_weight:
            inputs.mix(f"a convolution with computed weights in {recording.where}")
        recording.note_weight(weight, reads=[0 if is_transposed else 1])
    for span in (*features.spans[2:], *weight.spans[2:]):
        span.fix(SPATIAL)
    if bias is not None:
        unify(bias.spans[0], outputs)
    result = call.results[0]
    pixels = (features.spans if is_transposed else [Span(size) for size in result.shape])[2:]
    positions = 1
    for span in (*pixels, *weight.spans[2:]):
        positions *= span.size
    recording.contractions.append(
        Contraction(recording.layer, positions, (features.spans[0], outputs, inputs))
    )
    call.put([features.spans[0], outputs, *(Span(size, SPATIAL) for size in result.shape[2:])])


def multiplied(call: Call) -> None:
    """mm, addmm, bmm, baddbmm, mv, dot: the last dimension of one with the first own of the other."""
    if call.name in ("mm", "bmm"):
        left, right = call.operand("self"), call.operand("mat2")
    elif call.name in ("addmm", "addbmm"):
        left, right = call.operand("mat1", "batch1"), call.operand("mat2", "batch2")
    elif call.name == "baddbmm":
        left, right = call.operand("batch1"), call.operand("batch2")
    elif call.name == "addmv":
        left, right = call.operand("mat"), call.operand("vec")
    else:
        left, right = call.operand("self"), call.operand("vec", "tensor", "other")
    shared = len(left.spans) - 2 if len(left.spans) > 2 else 0
    for own, other in zip(left.spans[:shared], right.spans[:shared], strict=True):
        unify(own, other)
    call.recording.contract(left, len(left.spans) - 1, right, shared, shared=shared)
    spans = [*left.spans[:-1], *right.spans[shared + 1 :]]
    if call.name.startswith(("add", "badd")):
        product = Value(spans, [frozenset()] * len(spans), call.memory)
        spans = call.recording.align([product, call.operand("self")], call.results[0].shape).spans
    call.put(spans)


def linear(call: Call) -> None:
    """The last dimension with that of a weight."""
    features, weight, bias = call.operand("input"), call.operand("weight"), call.value("bias")
    call.recording.contract(features, len(features.spans) - 1, weight, 1)
    if bias is not None:
        unify(bias.spans[0], weight.spans[0])
    call.put([*features.spans[:-1], weight.spans[0]])


def attended(call: Call) -> None:
    """Queries with keys, then their softmax with values."""
    recording = call.recording
    query, key, value = (call.operand(name) for name in ("query", "key", "value"))
    for other in (key, value):
        for own, shared in zip(query.spans[:-2], other.spans[:-2], strict=True):
            unify(own, shared)
    unify(key.spans[-2], value.spans[-2])
    if call.arguments.get("scale") is None:
        query.spans[-1].fix(f"the default scale of the attention in {recording.where} follows from its width")
    last = len(query.spans) - 1
    recording.contract(query, last, key, last, shared=last - 1)
    key.spans[-2].fix(SPATIAL)
    query.spans[-2].fix(SPATIAL)
    scores = Value([*query.spans[:-1], key.spans[-2]], [frozenset()] * (last + 1), call.memory)
    mask = call.value("attn_mask") or call.value("attn_bias")
    if mask is not None:
        recording.align([scores, mask], [span.size for span in scores.spans])
    recording.contract(scores, last, value, last - 1, shared=last - 1)
    call.put([*query.spans[:-1], value.spans[-1]])
    call.put_unknown("a by-product of attention", start=1)
