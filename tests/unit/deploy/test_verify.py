import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from lomt.deploy import Interface, OnnxModel, verify, verify_onnx
from lomt.deploy.deployed_network import DeployedNetwork
from lomt.errors import ExportMismatchError
from tests.unit.deploy.networks import MixedNet, mixed_net

SAMPLES = MixedNet.example_inputs(8)


def corrupt(path, folder, change):
    network = onnx.load(path)
    change(network)
    onnx.save(network, folder / "corrupt.onnx")
    return folder / "corrupt.onnx"


def swap_outputs(first, second):
    names = {first: second, second: first}

    def change(network):
        for node in network.graph.node:
            node.output[:] = [names.get(name, name) for name in node.output]

    return change


def alter_weight(name, place, by):
    def change(network):
        tensor = next(tensor for tensor in network.graph.initializer if tensor.name == name)
        weight = numpy_helper.to_array(tensor).copy()
        weight.flat[place] += by
        tensor.CopyFrom(numpy_helper.from_array(weight, name))

    return change


def rename_output(network):
    for value in [*network.graph.output, *network.graph.node]:
        if isinstance(value, onnx.NodeProto):
            value.output[:] = ["depths" if name == "depth" else name for name in value.output]
        elif value.name == "depth":
            value.name = "depths"


def reorder_outputs(network):
    outputs = list(network.graph.output)
    del network.graph.output[:]
    network.graph.output.extend(outputs[::-1])


def test_a_right_file_passes_for_every_output_and_batch(exported):
    model, path = exported
    verification = verify_onnx(model.train(), path, SAMPLES, tasks=MixedNet.tasks, batch_sizes=(1, 3, 4))
    assert model.training
    model.eval()
    assert verification.passed
    assert [(check.size, check.batch, check.output) for check in verification.checks] == [
        (size, batch, task) for size in ((8, 12), (32, 64)) for batch in (1, 3, 4) for task in MixedNet.tasks
    ]
    by_output = {check.output: check for check in verification.checks[:12] if check.batch == 3}
    assert by_output["relu"].shape == (3, 6, 8, 12)
    assert by_output["scene"].shape == (3, 5)
    assert {check.dtype for check in verification.checks} == {"float32"}
    assert all(check.max_abs <= 1e-5 and check.max_rel <= 1e-4 for check in verification.checks)


def test_the_numbers_are_those_of_numpy(exported):
    model, path = exported
    check = verify_onnx(model, path, SAMPLES, tasks=MixedNet.tasks).checks[1]
    answer = OnnxModel(path)(SAMPLES[:1].numpy())["depth"].astype(np.float64)
    with torch.no_grad():
        expected = model(SAMPLES[:1])["depth"].double().numpy()
    assert (check.output, check.batch) == ("depth", 1)
    assert check.max_abs == np.abs(answer - expected).max()
    assert check.max_rel == pytest.approx(check.max_abs / np.abs(expected).max())


def test_it_prints_and_stores_itself(exported):
    model, path = exported
    verification = verify_onnx(model, path, SAMPLES, tasks=MixedNet.tasks)
    lines = str(verification).splitlines()
    assert len(lines) == 1 + 2 * 3 * len(MixedNet.tasks)
    assert lines[2].startswith("depth") and lines[2].endswith("same")
    values = json.loads(json.dumps(verification.to_dict(), allow_nan=False))
    assert values["passed"] and values["checks"][2]["shape"] == [1, 6, 8, 12]


@pytest.mark.parametrize(
    ("change", "output"),
    [
        (swap_outputs("depth", "mean"), "depth"),
        (swap_outputs("relu", "scene"), "relu"),
        (alter_weight("depthwise.weight", 40, 0.01), "mean"),
        (alter_weight("scene_head.bias", 3, 0.001), "scene"),
        (alter_weight("mean_head.bias", 0, np.nan), "mean"),
    ],
    ids=["swapped names", "swapped names of other shapes", "altered weight", "altered bias", "not a number"],
)
def test_a_corrupt_file_is_caught_with_its_output_and_batch(change, output, exported, tmp_path):
    model, path = exported
    with pytest.raises(ExportMismatchError) as caught:
        verify_onnx(model, corrupt(path, tmp_path, change), SAMPLES, tasks=MixedNet.tasks)
    first, *failed = str(caught.value).splitlines()
    assert first.startswith(
        f"Expected `{tmp_path / 'corrupt.onnx'}` to compute what the model does (tolerance 0.0001 of each "
        f"output's scale), but {len(failed)} of 24 checks failed."
    )
    assert any(line.startswith(f"  output `{output}`, batch 1, 8x12: ") for line in failed)
    assert any(line.startswith(f"  output `{output}`, batch 3, 32x64: ") for line in failed)


def test_the_message_holds_the_numbers(exported, tmp_path):
    model, path = exported
    broken = corrupt(path, tmp_path, alter_weight("scene_head.bias", 3, 0.5))
    with torch.no_grad():
        scale = model(SAMPLES[:1])["scene"].abs().max().item()
    with pytest.raises(ExportMismatchError) as caught:
        verify_onnx(model, broken, SAMPLES, tasks=MixedNet.tasks)
    expected = (
        f"output `scene`, batch 1, 8x12: largest difference 0.5, {0.5 / scale:.3g} of the scale {scale:.3g}"
    )
    assert expected in str(caught.value)


@pytest.mark.parametrize("change", [rename_output, reorder_outputs], ids=["renamed", "reordered"])
def test_wrong_names_and_order_are_caught(change, exported, tmp_path):
    model, path = exported
    broken = corrupt(path, tmp_path, change)
    with pytest.raises(ExportMismatchError) as caught:
        verify_onnx(model, broken, SAMPLES, tasks=MixedNet.tasks)
    assert str(caught.value) == (
        f"Expected the outputs of `{broken}` to be mean, depth, relu, scene, in this order, from a model "
        f"with scene, relu, depth, mean, but got {', '.join(OnnxModel(broken).outputs)}. Export it again."
    )


def test_by_default_every_task_of_the_model_must_be_there(exported):
    model, path = exported
    with pytest.raises(ExportMismatchError, match="to be scene, relu, depth, mean, in this order"):
        verify_onnx(model, path, SAMPLES)


def test_a_file_for_one_batch_size_only_is_caught(exported, tmp_path):
    def fix_batch(network):
        shape = numpy_helper.from_array(np.array([1, -1]), "fixed")
        network.graph.initializer.append(shape)
        scene = next(node for node in network.graph.node if "scene" in node.output)
        scene.output[0] = "flexible"
        network.graph.node.append(onnx.helper.make_node("Reshape", ["flexible", "fixed"], ["reshaped"]))
        start = numpy_helper.from_array(np.array([1, 5]), "size")
        network.graph.initializer.append(start)
        network.graph.node.append(onnx.helper.make_node("Reshape", ["reshaped", "size"], ["scene"]))

    model, path = exported
    broken = corrupt(path, tmp_path, fix_batch)
    with pytest.raises(
        ExportMismatchError, match=f"Expected `{broken}` to run at batch 3 and 8x12, but got: "
    ):
        verify_onnx(model, broken, SAMPLES, tasks=MixedNet.tasks)


class Answering(nn.Module):
    """Gives a stored answer; the file beside it is that of another answer."""

    def __init__(self, answer):
        super().__init__()
        self.register_buffer("answer", answer)

    def forward(self, images):
        return {"depth": self.answer.expand(len(images), *self.answer.shape)}


@pytest.mark.parametrize(
    ("offset", "is_right"), [(9e-5, True), (1.2e-4, False)], ids=["within tolerance", "beyond tolerance"]
)
@pytest.mark.parametrize("scale", [0.1, 1.0, 1000.0])
def test_the_tolerance_is_a_share_of_the_outputs_scale(offset, is_right, scale, monkeypatch):
    answer = torch.tensor([0.0, 0.5, -1.0]) * scale
    shifted = (answer + torch.tensor([offset * scale, 0.0, 0.0])).numpy()
    monkeypatch.setattr("lomt.deploy.verify.OnnxModel", fake_network(shifted))
    if is_right:
        assert verify_onnx(Answering(answer), Path("depth.onnx"), SAMPLES).passed
    else:
        with pytest.raises(ExportMismatchError):
            verify_onnx(Answering(answer), Path("depth.onnx"), SAMPLES)


@pytest.mark.parametrize(
    ("expected", "given", "text"),
    [
        (torch.ones(3), np.ones(2, np.float32), "expected shape (1, 3), got (1, 2)"),
        (torch.ones(3), np.ones(3, np.float64), "expected type float32, got float64"),
        (torch.ones(3), np.array([1, 1, np.inf], np.float32), "the file gives numbers that are not finite"),
        (torch.tensor([1, torch.nan]), np.ones(2, np.float32), "PyTorch gives numbers that are not finite"),
        (torch.zeros(2), np.full(2, 1e-5, np.float32), "largest difference 1e-05, inf of the scale 0"),
    ],
)
def test_each_way_to_be_different_is_named(expected, given, text, monkeypatch):
    monkeypatch.setattr("lomt.deploy.verify.OnnxModel", fake_network(given))
    with pytest.raises(ExportMismatchError) as caught:
        verify_onnx(Answering(expected), Path("depth.onnx"), SAMPLES)
    assert f"output `depth`, batch 1, 8x12: {text}" in str(caught.value)


def fake_network(answer):
    class FakeNetwork(OnnxModel):
        def __init__(self, path, threads=1):
            self.path = path
            self.outputs = ("depth",)
            self.batch_size, self.input_shape = None, (3, 8, 12)

        def __call__(self, images):
            return {"depth": np.broadcast_to(answer, (len(images), *answer.shape))}

    return FakeNetwork


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"batch_sizes": (2, 2)},
            "Expected `batch_sizes` to be two or more different sizes from 1, but got (2, 2).",
        ),
        (
            {"batch_sizes": (0, 1)},
            "Expected `batch_sizes` to be two or more different sizes from 1, but got (0, 1).",
        ),
        (
            {"batch_sizes": (1, 9)},
            "Expected at least 9 `samples` for the batch sizes (1, 9), but got 8.",
        ),
        ({"tolerance": 0.0}, "Expected `tolerance` to lie between 0 and 1, but got 0.0."),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(options, text, tmp_path):
    with pytest.raises(ValueError) as caught:
        verify_onnx(mixed_net(), tmp_path / "model.onnx", SAMPLES, **options)
    assert str(caught.value) == text


def truncate_weight(network):
    tensor = next(tensor for tensor in network.graph.initializer if tensor.name == "depthwise.weight")
    tensor.raw_data = tensor.raw_data[: len(tensor.raw_data) // 2]


def drop_channels(network):
    tensor = next(tensor for tensor in network.graph.initializer if tensor.name == "scene_head.weight")
    weight = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(weight[:4].copy(), tensor.name))
    bias = next(tensor for tensor in network.graph.initializer if tensor.name == "scene_head.bias")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias)[:4].copy(), bias.name))


@pytest.mark.parametrize("change", [truncate_weight, drop_channels], ids=["half the bytes", "a class less"])
def test_a_truncated_weight_is_caught(change, exported, tmp_path):
    model, path = exported
    with pytest.raises(ExportMismatchError):
        verify_onnx(model, corrupt(path, tmp_path, change), SAMPLES, tasks=MixedNet.tasks)


def test_a_file_cut_short_is_caught(exported, tmp_path):
    model, path = exported
    broken = tmp_path / "short.onnx"
    broken.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ExportMismatchError, match=f"Expected onnxruntime to load `{broken}`, but got: "):
        verify_onnx(model, broken, SAMPLES, tasks=MixedNet.tasks)


def test_labels_may_differ_one_time_in_a_thousand(monkeypatch):
    labels = torch.arange(2000) % 7
    for wrong, is_right in ((2, True), (3, False)):
        answer = labels.clone()
        answer[:wrong] += 1
        monkeypatch.setattr("lomt.deploy.verify.OnnxModel", fake_network(answer.numpy()))
        if is_right:
            assert verify_onnx(Answering(labels), Path("depth.onnx"), SAMPLES).passed
        else:
            with pytest.raises(ExportMismatchError, match=r"batch 1, 8x12: 0\.15% of the labels differ"):
                verify_onnx(Answering(labels), Path("depth.onnx"), SAMPLES)


class Counting(nn.Module):
    """Notes the batch sizes it is run with; its answer may depend on the other images."""

    def __init__(self, *, looks_around):
        super().__init__()
        self.looks_around, self.batches = looks_around, []

    def forward(self, images):
        self.batches.append(len(images))
        mean = images.mean((1, 2, 3))
        return {"depth": mean - mean.mean() if self.looks_around else mean}


@pytest.mark.parametrize(("looks_around", "batches"), [(False, [1, 8]), (True, [1, 3, 8])])
def test_the_model_is_run_in_between_only_where_images_are_not_answered_by_themselves(looks_around, batches):
    model = Counting(looks_around=looks_around)
    deployed = DeployedNetwork(model, ["depth"], Interface()).eval()
    images = torch.rand(8, 3, 4, 4)
    found = verify._references(deployed, images, (1, 3, 8))
    assert sorted(model.batches) == batches
    for batch, answers in found.items():
        np.testing.assert_allclose(answers["depth"], model(images[:batch])["depth"], rtol=1e-5, atol=1e-7)
