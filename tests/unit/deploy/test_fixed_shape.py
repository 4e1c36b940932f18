import onnx
import pytest
from onnx import TensorProto, helper

from lomt.deploy.fixed_shape import common_shape, image_input
from lomt.errors import ArtifactError
from tests.unit.deploy.networks import write_conv_network


@pytest.fixture
def network(tmp_path):
    return onnx.load(write_conv_network(tmp_path / "conv.onnx", 4, size=(8, 12)))


def opened(network):
    result = onnx.ModelProto()
    result.CopyFrom(network)
    for value in (*result.graph.input, *result.graph.output):
        for number, name in ((2, "height"), (3, "width")):
            value.type.tensor_type.shape.dim[number].dim_param = name
    return result


def test_the_size_is_the_baselines_unless_given(network):
    assert common_shape({"a": network}, "a", None) == (3, 8, 12)
    assert common_shape({"a": network, "b": opened(network)}, "a", None) == (3, 8, 12)
    assert common_shape({"b": opened(network)}, "b", (0, 16, 24)) == (3, 16, 24)


def test_stored_weights_are_no_inputs_and_several_inputs_are_refused(network):
    weight = network.graph.initializer[0]
    network.graph.input.append(
        helper.make_tensor_value_info(weight.name, TensorProto.FLOAT, list(weight.dims))
    )
    assert image_input(network, "conv").name == "images"
    network.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1]))
    with pytest.raises(
        ArtifactError, match="Expected `conv` to have one input, the images, but got images, mask"
    ):
        image_input(network, "conv")
