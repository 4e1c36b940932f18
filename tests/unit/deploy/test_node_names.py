import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lomt.deploy.node_names import name_nodes
from tests.unit.deploy.networks import MixedNet


def noted(operator, inputs, output, scopes=None):
    node = helper.make_node(operator, inputs, [output], name="exporter's own")
    if scopes is not None:
        node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=str(scopes))
    return node


def test_nodes_bear_their_layers_names():
    nodes = [
        noted("Conv", ["images", "model.stem.weight"], "a", ["", "model", "model.norm", "batch_norm"]),
        noted("Relu", ["a"], "b", ["", "model", "model.act", "relu"]),
        noted("Relu", ["b"], "c", ["", "model", "model.act", "relu"]),
        noted("Add", ["c", "val_3"], "d", ["", "model", "add"]),
        noted("Add", ["d", "val_3"], "e"),
        noted("Add", ["e", "val_3"], "f", ["", "_empty_nn_module_stack_from_metadata_hook", "sym"]),
        noted("Add", ["f", "val_3"], "g", "not a list ["),
    ]
    stored = [
        numpy_helper.from_array(np.zeros((1, 1, 1, 1), np.float32), "model.stem.weight"),
        numpy_helper.from_array(np.zeros(1, np.float32), "val_3"),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("images", "g")]
    network = helper.make_model(helper.make_graph(nodes, "graph", values[:1], values[1:], stored))
    name_nodes(network, "model")
    assert [node.name for node in network.graph.node] == [
        "stem/Conv",
        "act/Relu",
        "act/Relu_2",
        "Add",
        "Add_2",
        "Add_3",
        "Add_4",
    ]


def test_no_two_nodes_of_an_exported_file_share_a_name(exported):
    names = [node.name for node in onnx.load(exported[1]).graph.node]
    assert len(set(names)) == len(names)
    layers = {name.partition("/")[0] for name in names}
    assert {name for name, _ in MixedNet().named_children()} - {"norm"} <= layers  # merged into the stem
