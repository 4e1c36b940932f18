import numpy as np
import onnxruntime
import pytest

from lomt.deploy.cost import count_cost
from lomt.deploy.layer_graphs import FEATURES, graph_input_shape, write_layer_graph
from lomt.deploy.layer_shapes import LayerShape

SHAPES = {
    "images": LayerShape("conv", 3, 16, (9, 7), (5, 4), (3, 3), (2, 2), (1, 1)),
    "depthwise": LayerShape("conv", 8, 8, (8, 8), (8, 8), (3, 3), (1, 1), (1, 1), groups=8),
    "dilated": LayerShape("conv", 8, 4, (8, 8), (8, 8), (3, 3), (1, 1), (2, 2)),
    "even kernel": LayerShape("conv", 8, 4, (8, 8), (8, 8), (2, 2), (1, 1), (1, 1), batch=2),
    "transposed": LayerShape("transposed", 16, 4, (5, 5), (10, 10), (2, 2), (2, 2), (1, 1)),
    "padded output": LayerShape("transposed", 8, 4, (5, 5), (10, 10), (3, 3), (2, 2), (1, 1)),
    "series": LayerShape("conv", 8, 4, (16,), (16,), (3,), (1,), (1,)),
    "linear": LayerShape("linear", 4, 6, (5,), (5,)),
}


@pytest.mark.parametrize("name", SHAPES)
def test_the_network_runs_and_computes_the_layer_s_sizes(name, tmp_path):
    shape = SHAPES[name]
    path = write_layer_graph(shape, tmp_path / "layer.onnx", copies=2)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {FEATURES: np.ones(graph_input_shape(shape), np.float32)})
    rows = (*shape.output_size, shape.out_channels)
    assert output.shape == (
        rows if shape.operator == "linear" else (shape.batch, shape.out_channels, *shape.output_size)
    )


@pytest.mark.parametrize("name", ["images", "depthwise", "linear", "transposed"])
def test_every_copy_adds_the_layer_s_macs(name, tmp_path):
    shape = SHAPES[name]
    files = [write_layer_graph(shape, tmp_path / f"{copies}.onnx", copies=copies) for copies in (1, 3)]
    batch = graph_input_shape(shape)[0]  # rows, of a linear layer
    one, three = (count_cost(path, batch=batch).macs for path in files)
    assert three - one == 2 * shape.macs


def test_a_layer_that_reads_images_reads_the_network_s_input():
    assert graph_input_shape(SHAPES["images"]) == (1, 3, 9, 7)
    assert graph_input_shape(SHAPES["depthwise"]) == (1, 3, 8, 8)
    assert graph_input_shape(SHAPES["linear"]) == (5, 4)
