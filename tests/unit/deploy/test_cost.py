import json

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch.utils.flop_counter import FlopCounterMode

from lomt.deploy import count_cost
from lomt.errors import ArtifactError
from tests.reference.slow_macs import count_macs_one_by_one
from tests.unit.deploy.networks import MixedNet, write_conv_network, write_network


def test_macs_are_half_the_operations_torch_counts(exported):
    model, path = exported
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(MixedNet.example_inputs())
    cost = count_cost(path)
    assert cost.macs == counter.get_total_flops() / 2
    assert cost.uncounted == ()


@pytest.mark.parametrize("batch", [1, 3])
def test_macs_are_those_counted_one_by_one(exported, batch):
    model, path = exported
    assert count_cost(path, batch=batch).macs == count_macs_one_by_one(model, MixedNet.example_inputs(batch))


def test_parameters_are_the_models_once_normalisation_is_merged(exported):
    model, path = exported
    # the stem's convolution takes over the normalisation as one bias a channel
    merged = sum(value.numel() for value in model.norm.parameters()) - model.norm.num_features
    assert count_cost(path).params == sum(value.numel() for value in model.parameters()) - merged


def test_macs_of_an_open_network_are_those_of_the_fixed_one(tmp_path):
    path = write_conv_network(tmp_path / "conv.onnx", 4, size=(8, 12))
    network = onnx.load(path)
    for value in (*network.graph.input, *network.graph.output):
        for number, name in ((2, "height"), (3, "width")):
            value.type.tensor_type.shape.dim[number].dim_param = name
    onnx.save(network, tmp_path / "open.onnx")
    fixed = count_cost(path, batch=2).macs
    assert count_cost(tmp_path / "open.onnx", batch=2, size=(8, 12)).macs == fixed
    assert count_cost(tmp_path / "open.onnx", batch=2, size=(16, 12)).macs == 2 * fixed


def test_by_hand(tmp_path):
    path = write_conv_network(tmp_path / "conv.onnx", 4, layers=2, size=(5, 6))
    cost = count_cost(path)
    assert cost.params == 4 * 3 * 9 + 4 * 4 * 9
    assert cost.macs == 5 * 6 * (4 * 3 * 9 + 4 * 4 * 9)
    assert cost.file_bytes == path.stat().st_size
    assert str(cost) == f"0.000 M parameters, 0.0 M MACs at batch 1, {path.stat().st_size / 2**20:.2f} MiB"
    assert json.loads(json.dumps(cost.to_dict()))["macs"] == cost.macs


def test_matrix_products_of_any_rank_and_transposition(tmp_path):
    weights = [
        numpy_helper.from_array(np.zeros((32, 7), np.float32), "left"),
        numpy_helper.from_array(np.zeros((3 * 7 * 24, 5), np.float32), "right"),
        numpy_helper.from_array(np.array([0, -1]), "flat"),
    ]
    nodes = [
        helper.make_node("MatMul", ["images", "left"], ["product"]),  # (batch, 3, 24, 32) by (32, 7)
        helper.make_node("Reshape", ["product", "flat"], ["rows"]),
        helper.make_node("Transpose", ["rows"], ["columns"], perm=[1, 0]),
        helper.make_node("Gemm", ["columns", "right"], ["depth"], transA=1),
    ]
    path = write_network(tmp_path / "matrix.onnx", nodes, weights)
    # the declared shape of the output is not that of the graph, which is what counts
    assert count_cost(path, batch=2).macs == 2 * (3 * 24 * 32 * 7 + 3 * 7 * 24 * 5)


def test_what_is_not_counted_is_named(tmp_path):
    weight = numpy_helper.from_array(np.zeros((3, 3), np.float32), "weight")
    nodes = [
        helper.make_node("Einsum", ["images", "weight"], ["mixed"], name="mix", equation="bchw,cd->bdhw"),
        helper.make_node("Relu", ["mixed"], ["positive"]),
        helper.make_node("Fancy", ["positive"], ["depth"], domain="somewhere"),
    ]
    cost = count_cost(write_network(tmp_path / "fancy.onnx", nodes, [weight], domains=["somewhere"]))
    assert cost.uncounted == ("mix (Einsum)", "depth (Fancy)")
    assert (cost.macs, cost.params) == (0, 9)
    assert str(cost).endswith("; not counted: mix (Einsum), depth (Fancy)")


def test_a_product_whose_size_depends_on_the_data_is_named(tmp_path):
    weights = [
        numpy_helper.from_array(np.zeros((3, 3, 1, 1), np.float32), "weight"),
        numpy_helper.from_array(np.array(0.5, np.float32), "half"),
    ]
    nodes = [
        helper.make_node("NonZero", ["images"], ["places"]),
        helper.make_node("Shape", ["places"], ["found"], start=1),
        helper.make_node("Expand", ["half", "found"], ["line"]),
        helper.make_node("Unsqueeze", ["line", "axes"], ["map"]),
        helper.make_node("Expand", ["map", "three"], ["maps"]),
        helper.make_node("Conv", ["maps", "weight"], ["features"], name="late"),
        helper.make_node("GlobalAveragePool", ["features"], ["depth"]),
    ]
    weights += [
        numpy_helper.from_array(np.array([0, 1, 2]), "axes"),
        numpy_helper.from_array(np.array([1, 3, 1, 1]), "three"),
    ]
    cost = count_cost(write_network(tmp_path / "late.onnx", nodes, weights))
    assert (cost.macs, cost.uncounted) == (0, ("late (Conv)",))


def test_where_inference_gives_up_the_noted_shape_counts(tmp_path):
    weights = [
        numpy_helper.from_array(np.zeros((3, 3, 1, 1), np.float32), "weight"),
        numpy_helper.from_array(np.array([1, 3, 24, 32]), "size"),
        numpy_helper.from_array(np.array([0.0], np.float32), "zero"),
    ]
    nodes = [
        helper.make_node("NonZero", ["zero"], ["nothing"]),
        helper.make_node("Shape", ["nothing"], ["one_and_none"]),
        helper.make_node("ReduceSum", ["one_and_none"], ["one"]),
        helper.make_node("Mul", ["size", "one"], ["same_size"]),
        helper.make_node("Reshape", ["images", "same_size"], ["reshaped"]),
        helper.make_node("Conv", ["reshaped", "weight"], ["features"], name="late"),
        helper.make_node("Relu", ["features"], ["depth"]),
    ]
    path = write_network(tmp_path / "noted.onnx", nodes, weights)
    assert count_cost(path).uncounted == ("late (Conv)",)
    network = onnx.load(path)
    noted = helper.make_tensor_value_info("features", onnx.TensorProto.FLOAT, ["batch", 3, 24, 32])
    network.graph.value_info.append(noted)
    onnx.save(network, path)
    cost = count_cost(path, batch=2)
    assert (cost.macs, cost.uncounted) == (2 * 24 * 32 * 3 * 3, ())


def test_quantised_weights_are_parameters_and_settings_are_not(tmp_path):
    weights = [
        numpy_helper.from_array(np.zeros((4, 3, 3, 3), np.int8), "quantised"),
        numpy_helper.from_array(np.full(4, 0.1, np.float32), "scale"),
        numpy_helper.from_array(np.zeros(4, np.int8), "zero"),
        numpy_helper.from_array(np.float32([1, 1, 2, 2]), "double"),
        numpy_helper.from_array(np.array(6, np.float32), "six"),
    ]
    nodes = [
        helper.make_node("DequantizeLinear", ["quantised", "scale", "zero"], ["weight"], axis=0),
        helper.make_node("Conv", ["images", "weight"], ["features"], pads=[1] * 4),
        helper.make_node("Clip", ["features", "", "six"], ["clipped"]),
        helper.make_node("Resize", ["clipped", "", "double"], ["depth"]),
    ]
    cost = count_cost(write_network(tmp_path / "int8.onnx", nodes, weights))
    assert cost.params == 4 * 3 * 3 * 3
    assert cost.macs == 4 * 3 * 3 * 3 * 24 * 32
    assert cost.uncounted == ()


def test_subnormal_weights_are_counted(tmp_path):
    path = write_conv_network(tmp_path / "tiny.onnx", 4, layers=1, scale=1e-42)
    assert count_cost(path).subnormal_weights > 0


def test_a_file_that_contradicts_itself_is_refused(tmp_path):
    weight = numpy_helper.from_array(np.zeros((31, 3), np.float32), "weight")  # images are 32 wide
    node = helper.make_node("MatMul", ["images", "weight"], ["depth"])
    path = write_network(tmp_path / "wrong.onnx", [node], [weight])
    with pytest.raises(
        ArtifactError, match=f"Expected the shapes in `{path}` to fit together at batch 1, but got: "
    ):
        count_cost(path)


def test_files_and_batches_that_cannot_be_used_are_refused(tmp_path):
    with pytest.raises(ArtifactError, match="but there is none"):
        count_cost(tmp_path / "model.onnx")
    with pytest.raises(ValueError, match=r"Expected `batch` to be at least 1, but got 0\."):
        count_cost(tmp_path / "model.onnx", batch=0)
