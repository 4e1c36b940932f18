import numpy as np
import onnx
import pytest

from lomt.deploy import OnnxModel
from lomt.deploy.cost import count_cost
from lomt.deploy.int8 import Int8Writer, QuantizationError, saturates
from lomt.deploy.onnx_graph import load_network
from lomt.errors import UnknownNameError
from tests.unit.deploy.networks import write_conv_network

IMAGES = [np.random.default_rng(seed).standard_normal((3, 8, 12), dtype=np.float32) for seed in range(4)]


@pytest.fixture
def network(tmp_path):
    return write_conv_network(tmp_path / "conv.onnx", 8, size=(8, 12))


@pytest.fixture
def writer(network, tmp_path):
    return Int8Writer(network, IMAGES, tmp_path, reduce_range=False)


def weights(path):
    network = load_network(path)
    return {tensor.name: tensor for tensor in network.graph.initializer if len(tensor.dims) == 4}


def test_chosen_layers_have_int8_weights_with_a_scale_for_each_channel(writer, tmp_path):
    assert writer.layers == {f"conv{number}": "Conv" for number in range(3)}
    path = writer.write(tmp_path / "some.onnx", {"conv1"}, note="one")
    kinds = [tensor.data_type for tensor in weights(path).values()]
    assert sorted(kinds) == [onnx.TensorProto.FLOAT] * 2 + [onnx.TensorProto.INT8]
    loaded = load_network(path)
    scales = [t for t in loaded.graph.initializer if t.name.endswith("_scale") and list(t.dims) == [8]]
    assert len(scales) == 1
    assert writer.int8_layers(path, {"conv1"}) == {"conv1"}
    assert {entry.key: entry.value for entry in loaded.metadata_props} == {"lomt.int8": "one"}


def test_no_layer_in_int8_is_the_float_network(network, writer, tmp_path):
    path = writer.write(tmp_path / "none.onnx", set())
    batch = np.stack(IMAGES)
    np.testing.assert_allclose(
        OnnxModel(path)(batch)["depth"], OnnxModel(network)(batch)["depth"], rtol=1e-5, atol=1e-6
    )


def test_all_layers_in_int8_are_near_it_and_cost_the_same_macs(network, writer, tmp_path):
    path = writer.write(tmp_path / "all.onnx", writer.layers)
    batch = np.stack(IMAGES)
    expected, found = OnnxModel(network)(batch)["depth"], OnnxModel(path)(batch)["depth"]
    assert 0 < np.std(found - expected) < 0.05 * np.std(expected)
    assert count_cost(path).macs == count_cost(network).macs


def test_seven_bits_stay_within_half_the_range(network, tmp_path):
    writer = Int8Writer(network, IMAGES, tmp_path, reduce_range=True)
    path = writer.write(tmp_path / "seven.onnx", writer.layers)
    largest = max(
        np.abs(onnx.numpy_helper.to_array(tensor).astype(int)).max() for tensor in weights(path).values()
    )
    assert 32 < largest <= 64


def test_whether_sums_saturate_is_asked_of_the_processor(monkeypatch):
    for flags, expected in ((["avx2"], True), (["avx2", "avx512_vnni"], False), (["asimd"], False)):
        facts = {"cpu": {"vector_extensions": flags}}
        monkeypatch.setattr("lomt.deploy.int8.describe_environment", lambda facts=facts: facts)
        assert saturates() is expected


def test_what_cannot_be_used_is_refused(network, tmp_path):
    with pytest.raises(UnknownNameError, match="Unknown calibration method `minmix`, did you mean `minmax`"):
        Int8Writer(network, IMAGES, tmp_path, method="minmix")
    with pytest.raises(QuantizationError, match="Expected at least one image to calibrate on, but got none"):
        Int8Writer(network, [], tmp_path)
    with pytest.raises(
        QuantizationError, match=r"Expected onnxruntime to quantise `.*conv.onnx`, but got: .*"
    ):
        Int8Writer(network, [np.zeros((5, 8, 12), np.float32)], tmp_path)
