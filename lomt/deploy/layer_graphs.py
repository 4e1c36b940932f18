"""A single layer as an ONNX file, in surroundings like those it has in a network."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lomt.deploy.layer_shapes import LayerShape

__all__ = ["FEATURES", "graph_input_shape", "write_layer_graph"]

FEATURES = "features"
"""Name of the input."""

_OPSET = 18
_IR_VERSION = 10
_IMAGE_CHANNELS = 3
_MOST_IMAGE_CHANNELS = 4
_OPERATORS = {"conv": "Conv", "transposed": "ConvTranspose", "linear": "Gemm"}


def write_layer_graph(shape: LayerShape, path: Path, *, copies: int = 1) -> Path:
    """Write a network whose time grows with the number of copies by that of the layer within a network.

    onnxruntime keeps the features between convolutions in a layout of its own, blocks of channels; bringing the
    network's inputs and outputs to it and back can take longer than a layer. Therefore a pointwise convolution
    computes from three channels what the layer reads, as a network's first layer does, and all copies,
    with weights of their own, read that and are summed. The difference of two such networks is that
    of the copies alone.

    Args:
        shape: Of the layer; its sizes are fixed in the file.
        path: Where the file goes.
        copies: How many times the layer is there, at least 1.
    """
    generator = np.random.default_rng(0)
    weights: list[onnx.TensorProto] = []

    def weight(*sizes: int) -> str:
        name = f"weight{len(weights)}"
        values = generator.standard_normal(sizes, dtype=np.float32)
        weights.append(numpy_helper.from_array(values, name))
        return name

    nodes, value = [], FEATURES
    if _has_stem(shape):
        ones = [1] * len(shape.input_size)
        stem = weight(shape.in_channels, _IMAGE_CHANNELS, *ones)
        nodes.append(helper.make_node("Conv", [value, stem], ["stem"], kernel_shape=ones))
        value = "stem"
    total = ""
    for copy in range(copies):
        inputs = [value, weight(*shape.weight_sizes), weight(shape.out_channels)]
        own = f"copy{copy}"
        nodes.append(helper.make_node(_OPERATORS[shape.operator], inputs, [own], **_attributes(shape)))
        if total:
            nodes.append(helper.make_node("Add", [own, total], [f"sum{copy}"]))
        total = f"sum{copy}" if total else own
    return _write(path, nodes, weights, shape, total)


def graph_input_shape(shape: LayerShape) -> tuple[int, ...]:
    """Return the shape of the input of a layer's network."""
    if shape.operator == "linear":
        return (*shape.input_size, shape.in_channels)
    channels = _IMAGE_CHANNELS if _has_stem(shape) else shape.in_channels
    return (shape.batch, channels, *shape.input_size)


def _has_stem(shape: LayerShape) -> bool:
    """Whether the layer reads features; one that reads images, or rows, reads the network's input."""
    return shape.operator != "linear" and shape.in_channels > _MOST_IMAGE_CHANNELS


def _attributes(shape: LayerShape) -> dict[str, Any]:
    if shape.operator == "linear":
        return {"transB": 1}
    padding = _padding(shape)
    attributes: dict[str, Any] = {
        "kernel_shape": shape.kernel,
        "strides": shape.stride,
        "dilations": shape.dilation,
        "group": shape.groups,
        "pads": [max(0, own // 2) for own in padding] + [max(0, own - own // 2) for own in padding],
    }
    if shape.operator == "transposed":
        attributes["output_padding"] = [max(0, -own) for own in padding]
    return attributes


def _padding(shape: LayerShape) -> list[int]:
    """Return how many border pixels, both sides together, bring the input to the output's size."""
    # A transposed convolution is the convolution that leads back.
    wide, narrow = shape.input_size, shape.output_size
    if shape.operator == "transposed":
        wide, narrow = narrow, wide
    return [
        (few - 1) * stride + dilation * (kernel - 1) + 1 - many
        for many, few, kernel, stride, dilation in zip(
            wide, narrow, shape.kernel, shape.stride, shape.dilation, strict=True
        )
    ]


def _write(
    path: Path, nodes: list[onnx.NodeProto], weights: list[onnx.TensorProto], shape: LayerShape, output: str
) -> Path:
    sizes = graph_input_shape(shape)
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info(FEATURES, TensorProto.FLOAT, sizes)],
        [
            helper.make_tensor_value_info(
                output, TensorProto.FLOAT, [f"size{dim}" for dim in range(len(sizes))]
            )
        ],
        weights,
    )
    opsets = [helper.make_opsetid("", _OPSET)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION), path)
    return path
