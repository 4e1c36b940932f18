"""GELUs as onnxruntime computes them at once."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from lomt.deploy.onnx_gelu import reorder_gelus
from lomt.deploy.timing_export import export_for_timing


def gelu(first=("half", "one_plus"), last=("x", "halved"), *, half=0.5, inner="Erf", reads_twice=False):
    """x * (half * (1 + erf(x / sqrt 2))) with the factors in any order."""
    nodes = [
        helper.make_node("Div", ["x", "root"], ["scaled"]),
        helper.make_node(inner, ["scaled"], ["erf"]),
        helper.make_node("Add", ["erf", "one"], ["one_plus"]),
        helper.make_node("Mul", list(first), ["halved"]),
        helper.make_node("Mul", list(last), ["y"]),
    ]
    outputs = ["y", "halved"] if reads_twice else ["y"]
    graph = helper.make_graph(
        nodes,
        "gelu",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [64])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [64]) for name in outputs],
        [
            numpy_helper.from_array(np.float32(value), name)
            for name, value in {"root": 2**0.5, "one": 1.0, "half": half}.items()
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def optimized(network, folder):
    """Kinds of operations left once onnxruntime has fused what it knows, and the output."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    session = onnxruntime.InferenceSession(
        network.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    values = np.linspace(-4, 4, 64, dtype=np.float32)
    kinds = [node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node]
    return kinds, session.run(None, {"x": values})[0]


@pytest.mark.parametrize("first", [("half", "one_plus"), ("one_plus", "half")])
@pytest.mark.parametrize("last", [("x", "halved"), ("halved", "x")])
def test_onnxruntime_knows_it_afterwards_and_computes_the_same(first, last, tmp_path):
    network = gelu(first, last)
    before, expected = optimized(network, tmp_path)
    assert "Gelu" not in before  # else the change is no longer needed
    assert reorder_gelus(network) == 1
    onnx.checker.check_model(network, full_check=True)
    after, found = optimized(network, tmp_path)
    assert after == ["Gelu"]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "other", [{"half": 0.25}, {"inner": "Tanh"}, {"reads_twice": True}], ids=["factor", "inner", "read twice"]
)
def test_what_is_no_gelu_stays(other):
    network = gelu(**other)
    stored = network.SerializeToString()
    assert reorder_gelus(network) == 0
    assert network.SerializeToString() == stored


def test_an_exported_network_has_gelus_onnxruntime_knows(tmp_path):
    path = export_for_timing(
        nn.Sequential(nn.Linear(8, 4), nn.GELU()), torch.rand(2, 8), tmp_path / "net.onnx"
    )
    assert reorder_gelus(onnx.load(path)) == 0
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    kinds = {node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node}
    assert "Erf" not in kinds
    assert kinds & {"Gelu", "BiasGelu"}
