import json
import logging

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import lomt
from lomt import __version__
from lomt.deploy import OnnxModel, export_files, export_onnx, onnx_export, verify_onnx
from lomt.deploy.onnx_graph import count_subnormals
from lomt.deploy.weights_hash import weights_sha256
from lomt.errors import ArtifactError, UnknownNameError, UnsupportedLayerError
from tests.unit.deploy.networks import MixedNet, mixed_net


class Refused(nn.Module):
    """Takes a decision on the data, which no graph can express."""

    def forward(self, images):
        return {"depth": images * 2 if images.sum() > 0 else images}


class Repeated(nn.Module):
    """Two tasks with one and the same answer, and one that is a weight whatever the images."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)
        self.constant = nn.Parameter(torch.tensor([[1.0, 2.0]]))

    def forward(self, images):
        features = self.conv(images)
        return {"normals": features, "edges": features, "constant": self.constant}


def test_outputs_have_the_tasks_names_order_and_values(exported):
    model, path = exported
    images = MixedNet.example_inputs(5)
    outputs = OnnxModel(path)(images.numpy())
    assert tuple(outputs) == MixedNet.tasks
    with torch.no_grad():
        expected = model(images)
    for task in MixedNet.tasks:
        np.testing.assert_allclose(outputs[task], expected[task].numpy(), atol=1e-5)


def test_the_file_states_what_it_is(exported):
    _, path = exported
    network = onnx.load(path)
    onnx.checker.check_model(network, full_check=True)
    metadata = {entry.key: entry.value for entry in network.metadata_props}
    own = {key: metadata[key] for key in ("lomt.version", "lomt.torch", "lomt.opset", "lomt.tasks")}
    assert own == {
        "lomt.version": __version__,
        "lomt.torch": torch.__version__,
        "lomt.opset": "18",
        "lomt.tasks": json.dumps(list(MixedNet.tasks)),
    }
    assert metadata["lomt.weights_sha256"] == weights_sha256(exported[0])
    assert json.loads(metadata["lomt.input"]) == {
        "name": "images",
        "axes": ["batch", 3, "height", "width"],
        "example": [1, 3, 8, 12],
        "fixed_size_because": "",
    }
    assert json.loads(metadata["lomt.preprocessing"]) is None
    assert {domain.domain: domain.version for domain in network.opset_import}[""] == 18
    sizes = [size.dim_param or size.dim_value for size in network.graph.input[0].type.tensor_type.shape.dim]
    assert (network.graph.input[0].name, sizes) == ("images", ["batch", 3, "height", "width"])
    assert "depthwise.weight" in {tensor.name for tensor in network.graph.initializer}


def test_the_file_is_alone_and_holds_no_place_of_this_machine(exported):
    _, path = exported
    assert [found.name for found in path.parent.iterdir()] == [path.name]
    assert b".py" not in path.read_bytes()


def test_one_task_of_a_bfloat16_model_in_training(tmp_path, exported, capfd, caplog):
    model = mixed_net().to(torch.bfloat16).train()
    model.norm.eval()
    tiny = torch.finfo(torch.bfloat16).tiny / 4
    model.depth_head.weight.data[0, :2, 0, 0] = tiny
    before = {name: value.clone() for name, value in model.state_dict().items()}
    caplog.set_level(logging.INFO, "lomt")
    path = tmp_path / "depth.onnx"
    assert (
        export_onnx(
            model, MixedNet.example_inputs(3), path, tasks=["depth"], metadata={"kinds": '{"depth": "depth"}'}
        )
        == path
    )
    # nothing printed, one line logged, the model as it was
    assert capfd.readouterr() == ("", "")
    assert [record.message for record in caplog.records] == ["Set 2 subnormal weights to zero."]
    assert model.training and model.stem.training and not model.norm.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    # a smaller file with one float32 output, equal to the float32 copy of the model
    network = onnx.load(path)
    assert count_subnormals(network) == 0
    assert not any(tensor.name.startswith("scene_head") for tensor in network.graph.initializer)
    verification = verify_onnx(
        model, path, MixedNet.example_inputs(4), tasks=["depth"], batch_sizes=(1, 2, 4)
    )
    assert verification.passed
    assert OnnxModel(path).metadata["kinds"] == '{"depth": "depth"}'
    assert OnnxModel(path).tasks == ("depth",)


def test_shared_and_constant_answers_keep_their_names(tmp_path):
    torch.manual_seed(0)
    model = Repeated()
    path = export_onnx(model, torch.rand(1, 3, 4, 5), tmp_path / "model.onnx", opset=19)
    verification = verify_onnx(model, path, torch.rand(8, 3, 4, 5))
    assert [check.output for check in verification.checks[:3]] == ["normals", "edges", "constant"]
    assert onnx.load(path).opset_import[0].version == 19


def test_a_model_that_cannot_be_expressed_leaves_the_old_file_alone(tmp_path, capfd):
    path = tmp_path / "model.onnx"
    path.write_text("the old one")
    with pytest.raises(UnsupportedLayerError) as caught:
        export_onnx(Refused(), torch.rand(1, 3, 4, 4), path)
    text = str(caught.value)
    assert text.startswith(
        "Expected the model to be expressible in ONNX (opset 18) with a variable batch, but got: "
    )
    assert "data-dependent" in text.split("but got: ")[1]
    assert text.endswith("Replace the layer or the data-dependent code that this names.")
    assert [found.name for found in tmp_path.iterdir()] == ["model.onnx"]
    assert path.read_text() == "the old one"
    assert capfd.readouterr() == ("", "")
    assert logging.root.manager.disable == 0


def test_a_network_that_is_too_large_is_refused(tmp_path, monkeypatch, exported):
    monkeypatch.setattr(onnx_export, "_MOST_BYTES", 100)
    with pytest.raises(
        ArtifactError,
        match=r"to fit one ONNX file of at most 100 bytes, but its weights alone have [0-9]+ bytes\.",
    ):
        onnx_export._write(onnx.load(exported[1]), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"tasks": ["depht"]}, UnknownNameError, "Unknown task `depht`, did you mean `depth`?"),
        ({"tasks": []}, ValueError, "Expected `tasks` to name at least one task and none twice, but got []."),
        (
            {"tasks": ["depth", "depth"]},
            ValueError,
            "Expected `tasks` to name at least one task and none twice, but got ['depth', 'depth'].",
        ),
        ({"opset": 17}, ValueError, "Expected `opset` to be at least 18, but got 17."),
        (
            {"metadata": {"lomt.tasks": "x"}},
            ValueError,
            "Expected the keys of `metadata` not to begin with `lomt.`, but got `lomt.tasks`. "
            "These are lomt's own.",
        ),
        (
            {"path": "missing/model.onnx"},
            ValueError,
            "Expected the folder of `path` to exist, but got `{folder}/missing/model.onnx`. "
            "Make the folder first.",
        ),
        (
            {"example_inputs": torch.rand(0, 3, 8, 12)},
            ValueError,
            "Expected `example_inputs` to be floating-point images (batch, channels, height, width), but got "
            "torch.float32 of shape (0, 3, 8, 12).",
        ),
    ],
    ids=lambda value: str(value)[:30],
)
def test_arguments_that_cannot_be_used_are_refused(options, error, text, tmp_path):
    arguments = {"example_inputs": MixedNet.example_inputs(), "path": "model.onnx", **options}
    arguments["path"] = tmp_path / arguments["path"]
    with pytest.raises(error) as caught:
        export_onnx(mixed_net(), **arguments)
    assert str(caught.value).startswith(text.format(folder=tmp_path) if "{folder}" in text else text)
    assert list(tmp_path.iterdir()) == []


def test_metadata_are_text():
    with pytest.raises(ValueError, match=r"Expected `metadata` to map text to text, but got 'epochs': 3\."):
        onnx_export._check_metadata.__wrapped__({"epochs": 3})


class Named(nn.Module):
    def __init__(self, name):
        super().__init__()
        self.name = name

    def forward(self, images):
        return {self.name: images * 2}


@pytest.mark.parametrize("name", ["images", ""])
def test_a_task_cannot_have_the_inputs_name(name, tmp_path):
    with pytest.raises(ValueError) as caught:
        export_onnx(Named(name), torch.rand(1, 3, 4, 4), tmp_path / "model.onnx")
    assert str(caught.value) == (
        f"Expected every task to have a name, and not the input's, `images`, but got `{name}`. "
        "Rename the task."
    )


class Widening(nn.Module):
    """Does something else with wide images, which a graph made from a narrow one does not."""

    def forward(self, images):
        return images * 2 if images.shape[-1] > 20 else images * 3


def test_a_size_that_the_file_gets_wrong_is_fixed_with_the_reason(tmp_path):
    files = {tmp_path / "model.onnx": None}
    (exported,) = export_files(Widening(), torch.rand(1, 3, 4, 12), files)
    assert exported.tasks == ("output",)
    assert "32x64: " in exported.reason and "of the scale" in exported.reason
    assert OnnxModel(exported.path).input_shape == (3, 4, 12)
    assert (
        json.loads(OnnxModel(exported.path).metadata["lomt.input"])["fixed_size_because"] == exported.reason
    )
    assert exported.verification is not None and exported.verification.passed


def test_the_front_door_knows_it():
    assert lomt.export_onnx is export_onnx
