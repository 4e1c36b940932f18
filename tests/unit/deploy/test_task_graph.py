import numpy as np
import onnx
import pytest
import torch

from lomt.deploy import OnnxModel, count_cost
from lomt.deploy.task_graph import keep_outputs, nodes_for
from tests.unit.deploy.networks import MixedNet


@pytest.mark.parametrize(
    "tasks", [("scene",), ("relu",), ("depth", "scene"), ("scene", "depth"), MixedNet.tasks]
)
def test_what_is_kept_answers_as_before_and_nothing_more_is_kept(tasks, exported, tmp_path):
    model, path = exported
    network = onnx.load(path)
    smaller = keep_outputs(network, tasks)
    onnx.checker.check_model(smaller, full_check=True)
    onnx.save(smaller, tmp_path / "smaller.onnx")
    images = MixedNet.example_inputs(2)
    answers = OnnxModel(tmp_path / "smaller.onnx")(images.numpy())
    assert tuple(answers) == tasks
    with torch.no_grad():
        expected = model(images)
    for task in tasks:
        np.testing.assert_allclose(answers[task], expected[task].numpy(), atol=1e-5)
    # nothing in the file is without a reader
    read = {name for node in smaller.graph.node for name in node.input} | set(tasks)
    assert {tensor.name for tensor in smaller.graph.initializer} <= read
    assert all(read & set(node.output) for node in smaller.graph.node)
    assert network == onnx.load(path)


def test_a_task_costs_what_its_own_file_costs(exported, tmp_path):
    _, path = exported
    whole = count_cost(path)
    for task in MixedNet.tasks:
        onnx.save(keep_outputs(onnx.load(path), [task]), tmp_path / "task.onnx")
        own = count_cost(tmp_path / "task.onnx")
        counted = (own.params, own.macs, own.activations, own.weight_bytes)
        part = whole.tasks[task]
        assert (part.params, part.macs, part.activations, part.weight_bytes) == counted
        assert own.macs < whole.macs


def test_values_read_within_subgraphs_are_needed():
    from onnx import helper

    inner = helper.make_graph(
        [helper.make_node("Identity", ["outer"], ["inner"])],
        "inner",
        [],
        [helper.make_tensor_value_info("inner", onnx.TensorProto.FLOAT, None)],
    )
    nodes = [
        helper.make_node("Relu", ["images"], ["outer"]),
        helper.make_node("Neg", ["images"], ["other"]),
        helper.make_node("If", ["condition"], ["depth"], then_branch=inner, else_branch=inner),
    ]
    graph = helper.make_graph(nodes, "graph", [], [])
    assert nodes_for(graph, ["depth"]) == [0, 2]
