import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lomt.deploy.onnx_graph import (
    clear_trace,
    count_subnormals,
    flush_subnormals,
    load_network,
    name_outputs,
    remove_prefix,
    set_metadata,
)
from lomt.deploy.onnx_model import OnnxModel
from lomt.errors import ArtifactError

IMAGES = np.arange(6, dtype=np.float32).reshape(1, 1, 2, 3)


def two_outputs():
    """first = (x * model.scale) + 1, second = first * 3; inner values are named ``mean`` and ``one``."""
    weights = {"model.scale": 2.0, "one": 1.0, "three": 3.0}
    info = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 1, 2, 3])
        for name in ("first", "second")
    ]
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["images", "model.scale"], ["mean"]),
            helper.make_node("Add", ["mean", "one"], ["first"]),
            helper.make_node("Mul", ["first", "three"], ["second"]),
        ],
        "graph",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 1, 2, 3])],
        info,
        [numpy_helper.from_array(np.float32([value]), name) for name, value in weights.items()],
        value_info=[helper.make_tensor_value_info("mean", TensorProto.FLOAT, ["batch", 1, 2, 3])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def outputs_of(network, tmp_path):
    onnx.checker.check_model(network, full_check=True)
    onnx.save(network, tmp_path / "network.onnx")
    return OnnxModel(tmp_path / "network.onnx")(IMAGES)


@pytest.mark.parametrize(
    "names", [("depth", "edges"), ("mean", "one"), ("second", "first"), ("mean_1", "mean")]
)
def test_named_outputs_keep_their_values_whatever_inner_values_are_called(names, tmp_path):
    network = two_outputs()
    name_outputs(network, names)
    outputs = outputs_of(network, tmp_path)
    assert list(outputs) == list(names)
    np.testing.assert_array_equal(outputs[names[0]], IMAGES * 2 + 1)
    np.testing.assert_array_equal(outputs[names[1]], (IMAGES * 2 + 1) * 3)


def test_names_within_subgraphs_are_changed_too(tmp_path):
    network = two_outputs()
    branches = {}
    for branch, number in (("then_branch", 5.0), ("else_branch", 7.0)):
        result = helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)
        constant = numpy_helper.from_array(np.float32([number]), "depth")
        nodes = [helper.make_node("Add", ["second", "depth"], ["inner"])]
        branches[branch] = helper.make_graph(nodes, branch, [], [result], [constant])
    network.graph.initializer.append(numpy_helper.from_array(np.array(True), "condition"))
    network.graph.node.append(helper.make_node("If", ["condition"], ["third"], **branches))
    network.graph.output.append(helper.make_tensor_value_info("third", TensorProto.FLOAT, ["batch", 1, 2, 3]))
    name_outputs(network, ["edges", "depth", "inner"])
    outputs = outputs_of(network, tmp_path)
    np.testing.assert_array_equal(outputs["inner"], (IMAGES * 2 + 1) * 3 + 5)


def test_a_prefix_goes_unless_the_short_name_is_taken():
    network = two_outputs()
    network.graph.initializer.append(numpy_helper.from_array(np.float32([0]), "model.mean"))
    remove_prefix(network, "model.")
    assert [tensor.name for tensor in network.graph.initializer] == ["scale", "one", "three", "model.mean"]
    assert network.graph.node[0].input[1] == "scale"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_only_subnormal_numbers_become_zero(dtype):
    tiny = np.finfo(dtype).tiny
    weight = np.array([1.0, tiny, -tiny, tiny / 2, -tiny / 4, 0.0], dtype=dtype)
    network = two_outputs()
    network.graph.initializer.append(numpy_helper.from_array(weight, "weight"))
    constant = helper.make_node("Constant", [], ["value"], value=numpy_helper.from_array(weight[3], "value"))
    network.graph.node.append(constant)
    assert count_subnormals(network) == 3
    assert flush_subnormals(network) == 3
    assert count_subnormals(network) == 0
    flushed = numpy_helper.to_array(network.graph.initializer[-1])
    np.testing.assert_array_equal(flushed, np.array([1.0, tiny, -tiny, 0, 0, 0], dtype=dtype))
    assert flushed.dtype == dtype
    assert numpy_helper.to_array(network.graph.node[-1].attribute[0].t) == 0


def test_the_trace_goes_and_metadata_are_replaced():
    network = two_outputs()
    network.graph.node[0].metadata_props.add(key="stack_trace", value="secret")
    network.graph.node[0].doc_string = "secret"
    network.graph.metadata_props.add(key="signature", value="secret")
    network.metadata_props.add(key="old", value="secret")
    clear_trace(network)
    set_metadata(network, {"kinds": "{}", "author": "me"})
    assert [(entry.key, entry.value) for entry in network.metadata_props] == [
        ("author", "me"),
        ("kinds", "{}"),
    ]
    assert b"secret" not in network.SerializeToString()


def test_a_missing_file_and_a_file_of_another_kind_are_named(tmp_path):
    path = tmp_path / "model.onnx"
    with pytest.raises(ArtifactError) as caught:
        load_network(path)
    assert str(caught.value) == f"Expected `{path}` to be an ONNX file, but there is none. Export it first."
    path.write_text("no network")
    with pytest.raises(
        ArtifactError, match=r"Expected `.*` to be an ONNX network, but got: .*Export it again\."
    ):
        load_network(path)
