"""Exact GELUs written in the order of factors in which onnxruntime knows them."""

from collections import Counter

import numpy as np
import onnx
from onnx import numpy_helper

__all__ = ["reorder_gelus"]


def reorder_gelus(model: onnx.ModelProto) -> int:
    r"""Write :math:`x \cdot (\frac12 \cdot (1 + erf))` as :math:`(x \cdot (1 + erf)) \cdot \frac12`, in place.

    PyTorch's exporter writes the first. onnxruntime computes the second at once (its ``GeluFusion``), and the first as
    five passes through memory. Halving is exact, so the outputs stay the same to the last bit, up to
    subnormal numbers.

    Args:
        model: The network; subgraphs are left as they are.

    Returns:
        How many were changed.
    """
    graph = model.graph
    halves = {tensor.name for tensor in graph.initializer if _is_half(tensor)}
    for node in graph.node:
        if node.op_type == "Constant" and any(
            own.name == "value" and _is_half(own.t) for own in node.attribute
        ):
            halves.add(node.output[0])
    makers = {output: node for node in graph.node for output in node.output}
    reads = Counter(name for node in graph.node for name in node.input)
    reads.update(output.name for output in graph.output)
    found = 0
    for last in graph.node:
        if last.op_type != "Mul":
            continue
        for place, name in enumerate(last.input):
            halved = makers.get(name)
            if halved is None or halved.op_type != "Mul" or reads[name] > 1:
                continue
            summed = _other(halved, halves)
            if summed is not None and _is_one_plus_erf(summed, makers):
                half = next(own for own in halved.input if own in halves)
                halved.input[:] = [last.input[1 - place], summed]
                last.input[:] = [name, half]
                found += 1
                break
    return found


def _is_half(tensor: onnx.TensorProto) -> bool:
    values = numpy_helper.to_array(tensor)
    return values.size == 1 and values.dtype.kind == "f" and bool(np.all(values == 0.5))


def _other(node: onnx.NodeProto, halves: set[str]) -> str | None:
    """The factor beside one half."""
    others = [name for name in node.input if name not in halves]
    return others[0] if len(others) == 1 else None


def _is_one_plus_erf(name: str, makers: dict[str, onnx.NodeProto]) -> bool:
    node = makers.get(name)
    if node is None or node.op_type != "Add":
        return False
    return any(own in makers and makers[own].op_type == "Erf" for own in node.input)
