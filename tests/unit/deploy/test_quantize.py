import json

import numpy as np
import pytest

from lomt.deploy import OnnxModel
from lomt.deploy.agreement import agreement_with
from lomt.deploy.int8 import Int8Writer, QuantizationError
from lomt.deploy.onnx_graph import load_network
from lomt.deploy.quantize import layer_costs, quantize_int8
from lomt.errors import UnknownNameError
from tests.unit.deploy.networks import MixedNet

IMAGES = [np.random.default_rng(seed).random((3, 8, 12), dtype=np.float32) for seed in range(6)]


@pytest.fixture(scope="module")
def network(exported):
    return exported[1]


def test_a_share_that_int8_keeps_leaves_every_layer_in_int8(network, tmp_path):
    found = quantize_int8(network, tmp_path / "int8.onnx", IMAGES, agreement_with(network, IMAGES), share=0.5)
    assert [layer for layer in found.float_layers if layer.kind in ("Conv", "Gemm")] == []
    assert found.layers - len(found.float_layers) >= 7  # all layers with weights
    assert found.kept == found.kept_by_all_int8
    assert len(found.trials) == 1


@pytest.mark.parametrize("share", [0.9, 0.99])
def test_every_task_keeps_its_share_on_the_file_as_written(share, network, tmp_path):
    judge = agreement_with(network, IMAGES)
    out = tmp_path / "int8.onnx"
    found = quantize_int8(network, out, IMAGES, judge, share=share)
    assert min(found.kept_by_all_int8.values()) < share <= min(found.kept.values())
    assert judge(out) == pytest.approx(found.kept)
    assert OnnxModel(out).tasks == MixedNet.tasks  # the metadata is still there
    note = json.loads(OnnxModel(out).metadata["lomt.int8"])
    held = note["layers"] - note["chosen"]
    assert 0 < held <= len(found.float_layers) < note["layers"]
    # one layer less in float was judged as well, and was not enough
    counts = {trial.float_layers: min(trial.kept.values()) for trial in found.trials}
    assert counts[held - 1] < share <= counts[held]
    assert found.refused == ("relu_head/ConvTranspose",)  # transposed, in groups
    assert all(layer.name in str(found) for layer in found.float_layers)
    json.dumps(found.to_dict())


def test_layers_that_cost_the_failing_task_most_go_first(network, tmp_path):
    found = quantize_int8(
        network, tmp_path / "int8.onnx", IMAGES, agreement_with(network, IMAGES), share=0.99
    )
    worst = min(found.kept_by_all_int8, key=found.kept_by_all_int8.get)
    costs = [layer.costs[worst] for layer in found.float_layers]
    assert costs[0] == max(costs) > 0


def test_a_layer_costs_only_the_outputs_that_read_it(network, tmp_path):
    writer = Int8Writer(network, IMAGES, tmp_path)
    head = "scene_head/Gemm"
    costs = layer_costs(writer, network, IMAGES[:2], [head], tmp_path)[head]
    assert costs["scene"] > 0
    assert (costs["depth"], costs["mean"], costs["relu"]) == (0, 0, 0)


def test_layers_may_be_kept_in_float(network, tmp_path):
    writer = Int8Writer(network, IMAGES, tmp_path)
    name = next(iter(writer.layers))
    judge = agreement_with(network, IMAGES)
    found = quantize_int8(network, tmp_path / "int8.onnx", IMAGES, judge, share=0.1, keep_float=[name])
    assert found.float_layers[0].name == name
    with pytest.raises(UnknownNameError, match="Unknown layer `nosuch`"):
        quantize_int8(network, tmp_path / "int8.onnx", IMAGES, judge, keep_float=["nosuch"])


def test_a_task_that_cannot_keep_its_share_leaves_no_file(network, tmp_path):
    def judge(path):
        is_float = not any("QuantizeLinear" in node.op_type for node in load_network(path).graph.node)
        return {"depth": 1.0, "scene": 1.0 if is_float else 0.25}

    with pytest.raises(QuantizationError) as caught:
        quantize_int8(network, tmp_path / "int8.onnx", IMAGES, judge, share=0.5)
    assert str(caught.value) == (
        f"Expected some layers of `{network}` to be int8 with every task keeping 50.0% of its float quality, but even "
        "one costs more; all of them leave `scene` 25.0%. Ask for a smaller share, give more calibration images, or "
        "use fp16."
    )
    assert not (tmp_path / "int8.onnx").exists()


@pytest.mark.parametrize("share", [0.0, 1.5])
def test_a_share_is_a_fraction(share, network, tmp_path):
    with pytest.raises(ValueError, match=f"Expected `share` to be above 0 and at most 1, but got {share}"):
        quantize_int8(network, tmp_path / "int8.onnx", IMAGES, dict, share=share)
