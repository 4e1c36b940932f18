import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from lomt.deploy import OnnxModel
from lomt.errors import ArtifactError
from tests.unit.deploy.networks import MixedNet, write_conv_network


def test_it_tells_its_outputs_size_and_tasks(exported):
    network = OnnxModel(exported[1], threads=2)
    assert network.outputs == network.tasks == MixedNet.tasks
    assert network.batch_size is None and network.input_shape == (3, None, None)


def test_it_tells_a_fixed_size(tmp_path):
    network = OnnxModel(write_conv_network(tmp_path / "conv.onnx", 4))
    assert network.batch_size is None and network.input_shape == (3, 24, 32)


def test_images_of_any_float_type_and_layout_are_taken(tmp_path):
    network = OnnxModel(write_conv_network(tmp_path / "conv.onnx", 4))
    images = np.random.default_rng(0).random((2, 3, 24, 32))
    transposed = np.asfortranarray(images)
    np.testing.assert_array_equal(network(images)["depth"], network(transposed)["depth"])
    assert network.tasks == ("depth",)


def test_images_of_another_size_are_refused(tmp_path):
    path = write_conv_network(tmp_path / "conv.onnx", 4)
    with pytest.raises(ValueError) as caught:
        OnnxModel(path)(np.zeros((2, 3, 24, 33), np.float32))
    assert str(caught.value) == (
        f"Expected `images` for `{path}` to have the shape (batch, 3, 24, 32), but got (2, 3, 24, 33)."
    )


def test_a_network_with_two_inputs_is_refused(tmp_path):
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("left", "right", "sum")
    ]
    graph = helper.make_graph(
        [helper.make_node("Add", ["left", "right"], ["sum"])], "graph", values[:2], values[2:]
    )
    network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(network, tmp_path / "two.onnx")
    with pytest.raises(ArtifactError) as caught:
        OnnxModel(tmp_path / "two.onnx")
    assert str(caught.value) == (
        f"Expected `{tmp_path / 'two.onnx'}` to have one input, the images, but got left, right."
    )
