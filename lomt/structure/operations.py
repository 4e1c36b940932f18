"""One rule for every tensor operation: how the spans of its results follow from those of its operands.

The operations are those of ATen, to which PyTorch reduces whatever a network calls. A rule ties dimensions that
must lose the same channels, and says which weights read channels and which compute them. An operation without
a rule keeps all channels that it touches.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lomt.structure.recording import SPATIAL, Contraction, Memory, Recording, Value
from lomt.structure.spans import Span, join, multiply, regroup, slice_up, unify

__all__ = ["RULES", "Call", "follow"]


class Call:
    """One operation: its arguments by name, and what came out.

    Args:
        recording: What is known so far.
        function: The operation.
        arguments: By the names of its schema.
        result: What it returned.
        memory: What flows into the results.
    """

    def __init__(
        self, recording: Recording, function: Any, arguments: Mapping[str, Any], result: Any, memory: Memory
    ) -> None:
        self.recording, self.function, self.arguments = recording, function, arguments
        self.name = operation_name(function)
        self.results = [result] if isinstance(result, Tensor) else tensors_in(result)
        self.memory = memory

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def value(self, name: str) -> Value | None:
        """Return an operand, ``None`` where it was not given."""
        tensor = self.arguments.get(name)
        return self.recording.value(tensor) if isinstance(tensor, Tensor) else None

    def operand(self, *names: str) -> Value:
        """Return the operand with the first of these names, or the first operand at all."""
        for name in names:
            if (value := self.value(name)) is not None:
                return value
        return self.operands[0]

    @property
    def operands(self) -> list[Value]:
        """All tensors among the arguments, in their order."""
        return [self.recording.value(tensor) for tensor in tensors_in(self.arguments.values())]

    def put(
        self, spans: Sequence[Span], origins: Sequence[Any] = (), *, place: int = 0, memory: Memory | None = None
    ) -> None:
        """Make one of the results known."""
        if place >= len(self.results):
            return
        memory = memory or self.memory
        kept = [frozenset()] * len(spans) if memory.is_live or not origins else origins
        self.recording.put(self.results[place], spans, kept, memory)

    def put_value(self, value: Value, place: int = 0) -> None:
        """Make one of the results known."""
        self.put(value.spans, value.origins, place=place)

    def put_unknown(self, reason: str | None, start: int = 0) -> None:
        """Make the results from ``start`` on known as tensors with dimensions of their own."""
        for place in range(start, len(self.results)):
            self.put([Span(size, reason) for size in self.results[place].shape], place=place)


def tensors_in(values: Any) -> list[Tensor]:
    """Collect the tensors in nested lists and tuples."""
    found: list[Tensor] = []
    for value in values if not isinstance(values, Tensor) else [values]:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += tensors_in(value)
    return found


def operation_name(function: Any) -> str:
    """Return the name without overload; ``add`` for ``add_`` as well."""
    name = str(function.overloadpacket.__name__)
    return name[:-1] if name.endswith("_") and not name.startswith("__") else name


def follow(call: Call) -> None:
    """Apply the operation's rule."""
    if not call.results:
        return
    rule = RULES.get(call.name)
    if rule is None and torch.Tag.pointwise in call.function.tags:
        rule = _elementwise
    if rule is None:
        _unknown(call)
    else:
        rule(call)


def _unknown(call: Call) -> None:
    reason = f"aten.{call.name} in {call.recording.where} is not an operation that lomt knows"
    _fix(call.operands, reason)
    call.put_unknown(reason)


def _fix(values: Sequence[Value], reason: str) -> None:
    for value in values:
        for span in value.spans:
            span.fix(reason)


def _elementwise(call: Call) -> None:
    for place, result in enumerate(call.results):
        call.put_value(call.recording.align(call.operands, result.shape), place)


def _written(call: Call) -> None:
    value = call.recording.align(call.operands, call.results[0].shape)
    call.put(call.operand("self").spans, value.origins)


def _same(call: Call) -> None:
    first = call.operand("self", "input")
    for place in range(len(call.results)):
        call.put_value(first, place)


def _made(call: Call) -> None:
    call.put_unknown(None)


def _made_in_order(call: Call) -> None:
    call.put_unknown(f"aten.{call.name}: numbers in their order in {call.recording.where}")


def _reshaped(call: Call) -> None:
    call.put_value(call.operand("self").group(call.results[0].shape))


def _permuted(call: Call) -> None:
    value = call.operand("self")
    count = len(value.spans)
    order = list(range(count))
    if call.name == "permute":
        order = [dim % count for dim in call["dims"]]
    elif count > 1:
        first, second = (call["dim0"], call["dim1"]) if call.name == "transpose" else (0, 1)
        order[first], order[second] = order[second], order[first]
    call.put([value.spans[dim] for dim in order], [value.origins[dim] for dim in order])


def _restrided(call: Call) -> None:
    """Pooling to one pixel relabels memory; other uses of strides are not followed."""
    if [span.size for span in call.operand("self").spans] == list(call["size"]):
        _same(call)
    else:
        _unknown(call)


def _expanded(call: Call) -> None:
    call.put_value(call.recording.align([call.operand("self")], call.results[0].shape))


def _repeated(call: Call) -> None:
    value, counts = call.operand("self"), call["repeats"]
    new = len(counts) - len(value.spans)
    spans = [*(Span(1) for _ in range(new)), *value.spans]
    made = [
        multiply((Span(count, "repeated features"), span)) for count, span in zip(counts, spans, strict=True)
    ]
    call.put(made, [*([frozenset()] * new), *value.origins])


def _cut_out(call: Call) -> None:
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
    outer, inner = (
        multiply(part)
        for part in ([own] for own in regroup([span], [span.size // step, step]))
    )
    inner.fix("every so many indices are taken")
    return outer


def _split(call: Call) -> None:
    value = call.operand("self")
    dim = call["dim"] % len(value.spans)
    parts = slice_up(value.spans[dim], [result.shape[dim] for result in call.results])
    for place, part in enumerate(parts):
        spans = [*value.spans[:dim], part, *value.spans[dim + 1 :]]
        call.put(spans, value.origins, place=place)


def _picked(call: Call) -> None:
    value = call.operand("self")
    dim = call["dim"] % len(value.spans)
    value.spans[dim].fix(f"single indices are taken in {call.recording.where}")
    rest = [place for place in range(len(value.spans)) if place != dim]
    for place in range(len(call.results)):
        call.put([value.spans[own] for own in rest], [value.origins[own] for own in rest], place=place)


def _unsqueezed(call: Call) -> None:
    value = call.operand("self")
    dim = call["dim"] % (len(value.spans) + 1)
    spans, origins = list(value.spans), list(value.origins)
    spans.insert(dim, Span(1))
    origins.insert(dim, frozenset())
    call.put(spans, origins)


def _squeezed(call: Call) -> None:
    value = call.operand("self")
    asked = call.arguments.get("dim")
    dims = range(len(value.spans)) if asked is None else [asked] if isinstance(asked, int) else asked
    gone = {dim % len(value.spans) for dim in dims if value.spans and value.spans[dim].size == 1}
    kept = [dim for dim in range(len(value.spans)) if dim not in gone]
    call.put([value.spans[dim] for dim in kept], [value.origins[dim] for dim in kept])


def _concatenated(call: Call) -> None:
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


def _stacked(call: Call) -> None:
    values = [call.recording.value(tensor) for tensor in call["tensors"]]
    shape = [span.size for span in values[0].spans]
    aligned = call.recording.align(values, shape)
    dim = call["dim"] % (len(shape) + 1)
    spans, origins = aligned.spans, aligned.origins
    spans.insert(dim, Span(len(values), "stacked features"))
    origins.insert(dim, frozenset())
    call.put(spans, origins)


def _padded(call: Call) -> None:
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


def _indexed(call: Call) -> None:
    value = call.operand("self")
    indices = call["indices"]
    dims = [dim for dim, index in enumerate(indices) if index is not None]
    reason = f"indexing in {call.recording.where}"
    for dim in dims:
        value.spans[dim].fix(reason)
    _fix([call.recording.value(indices[dim]) for dim in dims], reason)
    kept = [dim for dim in range(len(value.spans)) if dim not in dims]
    new = [Span(size, reason) for size in call.results[0].shape]
    is_together = dims == list(range(dims[0], dims[0] + len(dims)))
    start = dims[0] if is_together else 0
    count = len(new) - len(kept)
    for place, dim in enumerate(kept):
        new[place if place < start else place + count] = value.spans[dim]
    call.put(new)


def _looked_up(call: Call) -> None:
    weight, index = call.operand("weight"), call.operand("indices")
    weight.spans[0].fix("rows of an embedding")
    if not weight.memory.is_live:
        call.recording.note_weight(weight, reads=[0])
    call.put([*index.spans, weight.spans[1]])


def _selected(call: Call) -> None:
    value = call.operand("self")
    dim = call["dim"] % len(value.spans)
    value.spans[dim].fix(f"indexing in {call.recording.where}")
    spans = list(value.spans)
    spans[dim] = Span(call.results[0].shape[dim], "indexing")
    call.put(spans)


def _fixed_along(call: Call) -> None:
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


def _reduced(call: Call) -> None:
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


def _channelwise(call: Call) -> None:
    """Pooling and resizing: all but the last dimensions pass."""
    value = call.operand("self", "input")
    count = next(digit for digit in (1, 2, 3) if f"{digit}d" in call.name)
    for span in value.spans[-count:]:
        span.fix(SPATIAL)
    _fix([other for other in call.operands if other is not value], SPATIAL)
    for place, result in enumerate(call.results):
        kept = value.spans[: len(value.spans) - count]
        call.put([*kept, *(Span(size, SPATIAL) for size in result.shape[len(kept) :])], place=place)


def _convolved(call: Call) -> None:
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
    recording.contractions.append(Contraction(recording.layer, positions, (features.spans[0], outputs, inputs)))
    call.put([features.spans[0], outputs, *(Span(size, SPATIAL) for size in result.shape[2:])])


def _multiplied(call: Call) -> None:
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
        left, right = call.operand("self"), call.operand("vec", "tensor")
    shared = len(left.spans) - 2 if len(left.spans) > 2 else 0
    for own, other in zip(left.spans[:shared], right.spans[:shared], strict=True):
        unify(own, other)
    call.recording.contract(left, len(left.spans) - 1, right, shared, shared=shared)
    spans = [*left.spans[:-1], *right.spans[shared + 1 :]]
    if call.name.startswith(("add", "badd")):
        product = Value(spans, [frozenset()] * len(spans), call.memory)
        spans = call.recording.align([product, call.operand("self")], call.results[0].shape).spans
    call.put(spans)


def _linear(call: Call) -> None:
    features, weight, bias = call.operand("input"), call.operand("weight"), call.value("bias")
    call.recording.contract(features, len(features.spans) - 1, weight, 1)
    if bias is not None:
        unify(bias.spans[0], weight.spans[0])
    call.put([*features.spans[:-1], weight.spans[0]])


def _attended(call: Call) -> None:
    recording = call.recording
    query, key, value = (call.operand(name) for name in ("query", "key", "value"))
    for other in (key, value):
        for own, shared in zip(query.spans[:-2], other.spans[:-2], strict=True):
            unify(own, shared)
    unify(key.spans[-2], value.spans[-2])
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


def _layer_normed(call: Call) -> None:
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


def _group_normed(call: Call) -> None:
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


def _batch_normed(call: Call) -> None:
    value = call.operand("input")
    for name in ("weight", "bias", "running_mean", "running_var"):
        if (own := call.value(name)) is not None:
            unify(value.spans[1], own.spans[0])
    is_computed = call.arguments.get("training", False) or call.value("running_mean") is None
    if is_computed:
        for dim, span in enumerate(value.spans):
            if dim != 1:
                span.mix(_normaliser(call.recording))
    call.put_value(value)
    call.put_unknown("a by-product of a norm", start=1)


def _normaliser(recording: Recording) -> str:
    return f"the normalisation {recording.where}"


def _shuffled(call: Call) -> None:
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


def _unfolded(call: Call) -> None:
    value, result = call.operand("self"), call.results[0]
    channel = len(value.spans) - 3
    for span in value.spans[-2:]:
        span.fix(SPATIAL)
    window = Span(result.shape[-2] // value.spans[channel].size, SPATIAL)
    merged = multiply([value.spans[channel], window])
    call.put([*value.spans[:channel], merged, Span(result.shape[-1], SPATIAL)])


def _folded(call: Call) -> None:
    value, result = call.operand("self"), call.results[0]
    channels = result.shape[-3]
    kept, window = regroup([value.spans[-2]], [channels, value.spans[-2].size // channels])
    window.fix(SPATIAL)
    value.spans[-1].fix(SPATIAL)
    call.put([*value.spans[:-2], kept, *(Span(size, SPATIAL) for size in result.shape[-2:])])


def _windowed(call: Call) -> None:
    value, dim = call.operand("self"), call["dimension"]
    value.spans[dim].fix(SPATIAL)
    spans = [*value.spans, Span(call["size"], SPATIAL)]
    spans[dim] = Span(call.results[0].shape[dim], SPATIAL)
    call.put(spans)


def _halved(call: Call) -> None:
    value = call.operand("self")
    dim = call["dim"] % len(value.spans)
    first, second = slice_up(value.spans[dim], [value.spans[dim].size // 2] * 2)
    unify(first, second)
    call.put([*value.spans[:dim], first, *value.spans[dim + 1 :]])


def _prelu(call: Call) -> None:
    value, weight = call.operand("self"), call.operand("weight")
    if len(weight.spans) == 1 and weight.spans[0].size > 1:
        unify(value.spans[1], weight.spans[0])
        call.put_value(value)
    else:
        _elementwise(call)


Rule = Callable[[Call], None]


def _table(rule: Rule, names: str) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), rule)


_ADDITIVE = frozenset("sum mean var std var_mean std_mean norm linalg_vector_norm nansum".split())

RULES: dict[str, Rule] = {
    **_table(
        _same,
        "clone contiguous detach alias _to_copy lift lift_fresh lift_fresh_copy native_dropout dropout "
        "zeros_like ones_like empty_like full_like rand_like randn_like bernoulli fill zero normal uniform "
        "_conj resolve_conj exponential random trunc_normal alpha_dropout feature_dropout",
    ),
    **_table(_elementwise, "where masked_fill lerp addcmul addcdiv clamp hardtanh hardswish hardsigmoid gelu silu mish elu celu selu "
        "leaky_relu softplus threshold isnan isinf logit log_sigmoid_forward rsub pow "),
    **_table(_written, "copy"),
    **_table(
        _made,
        "zeros ones empty full new_zeros new_ones new_empty new_full empty_strided new_empty_strided "
        "empty_permuted rand randn scalar_tensor",
    ),
    **_table(_made_in_order, "arange linspace eye logspace randperm tril_indices triu_indices"),
    **_table(_reshaped, "view _unsafe_view reshape _reshape_alias view_copy _reshape_copy"),
    **_table(_restrided, "as_strided"),
    **_table(_permuted, "permute transpose t"),
    **_table(_expanded, "expand expand_as broadcast_to"),
    **_table(_repeated, "repeat"),
    **_table(_cut_out, "slice"),
    **_table(_split, "split split_with_sizes chunk unsafe_split unsafe_chunk unsafe_split_with_sizes"),
    **_table(_picked, "select unbind"),
    **_table(_unsqueezed, "unsqueeze"),
    **_table(_squeezed, "squeeze"),
    **_table(_concatenated, "cat concat concatenate"),
    **_table(_stacked, "stack"),
    **_table(_padded, "constant_pad_nd"),
    **_table(_indexed, "index _unsafe_index"),
    **_table(_looked_up, "embedding"),
    **_table(_selected, "index_select"),
    **_table(
        _fixed_along,
        "_softmax _log_softmax _safe_softmax softmax log_softmax cumsum cumprod logcumsumexp sort argsort "
        "topk roll flip",
    ),
    **_table(
        _reduced,
        "sum mean var std var_mean std_mean norm linalg_vector_norm nansum logsumexp prod any all amax amin "
        "aminmax max min argmax argmin median",
    ),
    **_table(
        _channelwise,
        "max_pool1d max_pool2d max_pool3d max_pool2d_with_indices max_pool3d_with_indices avg_pool1d avg_pool2d "
        "avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d _adaptive_avg_pool2d _adaptive_avg_pool3d "
        "adaptive_max_pool2d adaptive_max_pool3d max_pool1d_with_indices upsample_nearest1d upsample_nearest2d "
        "upsample_nearest3d upsample_linear1d upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d "
        "_upsample_bilinear2d_aa _upsample_bicubic2d_aa _upsample_nearest_exact1d _upsample_nearest_exact2d "
        "grid_sampler_2d grid_sampler_3d reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d "
        "replication_pad2d replication_pad3d mkldnn_max_pool2d",
    ),
    **_table(
        _convolved,
        "convolution _convolution mkldnn_convolution conv1d conv2d conv3d convolution_overrideable",
    ),
    **_table(_multiplied, "mm addmm bmm baddbmm addbmm mv addmv dot vdot"),
    **_table(_linear, "linear mkldnn_linear"),
    **_table(
        _attended,
        "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention "
        "_scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention "
        "_scaled_dot_product_attention_math scaled_dot_product_attention "
        "_scaled_dot_product_fused_attention_overrideable",
    ),
    **_table(_layer_normed, "native_layer_norm layer_norm _fused_rms_norm rms_norm"),
    **_table(_group_normed, "native_group_norm group_norm"),
    **_table(
        _batch_normed,
        "native_batch_norm batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training "
        "cudnn_batch_norm miopen_batch_norm _batch_norm_no_update _batch_norm_with_update "
        "_batch_norm_with_update_functional",
    ),
    **_table(_shuffled, "pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle"),
    **_table(_unfolded, "im2col"),
    **_table(_folded, "col2im"),
    **_table(_windowed, "unfold"),
    **_table(_halved, "glu"),
    **_table(_prelu, "prelu _prelu_kernel"),
}
