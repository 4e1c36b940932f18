import copy
import dataclasses
import json

import pytest
import torch

from lomt.errors import UnknownNameError
from lomt.models import BackboneSpec, DecoderSpec, ModelSpec, MultiTaskModel, load_shared, truncate

SPEC = ModelSpec(
    backbone=BackboneSpec("mobilenetv3_small_050", options={"drop_rate": 0.0}),
    decoders={
        "segmentation": DecoderSpec("aspp", width=8),
        "depth": DecoderSpec("linear"),
        "scene": DecoderSpec("classifier", hidden_width=4),
    },
    out_channels={"segmentation": 5, "depth": 1, "scene": 7},
    dense={"segmentation": True, "depth": True, "scene": False},
    branch_points={"segmentation": "blocks.3", "depth": "blocks.2.1.conv_pwl", "scene": "blocks.1.1"},
)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return SPEC.build()


@pytest.fixture(scope="module")
def model_at_the_end():
    torch.manual_seed(0)
    return dataclasses.replace(SPEC, branch_points={}).build().eval()


def test_predictions_have_the_tasks_order_and_the_images_size(model):
    predictions = model(torch.randn(2, 3, 48, 72))

    assert {task: tuple(value.shape) for task, value in predictions.items()} == {
        "segmentation": (2, 5, 48, 72),
        "depth": (2, 1, 48, 72),
        "scene": (2, 7),
    }
    assert list(predictions) == list(SPEC.decoders)


def test_each_decoder_reads_its_branch_point(model):
    model = copy.deepcopy(model).eval()
    images = torch.randn(2, 3, 48, 72)
    features = model.backbone(images)["blocks.2.1.conv_pwl"]

    expected = torch.nn.functional.interpolate(
        model.decoders["depth"](features), size=(48, 72), mode="bilinear", align_corners=False
    )

    assert torch.equal(model(images)["depth"], expected)


def test_the_backbone_ends_at_the_deepest_branch_point(model):
    assert not any(name.startswith("backbone.blocks.4") for name, _ in model.named_modules())
    assert model.branch_points == SPEC.branch_points


def test_tasks_at_one_branch_point_do_not_share(model_at_the_end):
    owners = {}
    for name, parameter in model_at_the_end.named_parameters():
        owners.setdefault(id(parameter), set()).add(model_at_the_end.component_of(name))

    assert all(len(parts) == 1 for parts in owners.values())


def test_branch_points_left_out_are_the_deepest_block(model_at_the_end):
    assert set(model_at_the_end.spec.branch_points.values()) == {"blocks.5.0"}
    assert model_at_the_end.spec.backbone == SPEC.backbone


def test_rewiring_every_task_at_the_last_layer_changes_nothing(model_at_the_end):
    points = dict.fromkeys(SPEC.decoders, "blocks.5.0")
    rewired = dataclasses.replace(SPEC, branch_points=points).build().eval()

    load_shared(rewired, model_at_the_end.state_dict())

    images = torch.randn(2, 3, 48, 72)
    expected = model_at_the_end(images)
    assert all(torch.equal(value, expected[task]) for task, value in rewired(images).items())


def test_one_task_left_out_reads_the_deepest_block():
    spec = dataclasses.replace(SPEC, branch_points={"depth": "blocks.1"})

    assert spec.build().branch_points == {
        "segmentation": "blocks.5.0",
        "depth": "blocks.1",
        "scene": "blocks.5.0",
    }


def test_components_cover_every_parameter(model):
    found = {model.component_of(name) for name in model.state_dict()}

    assert found == {"backbone", "segmentation", "depth", "scene"}
    assert model.component_of("decoders.scene.head.weight") == "scene"
    assert model.component_of("backbone") == "backbone"


@pytest.mark.parametrize("name", ["head.weight", "decoders.normals.head.weight"])
def test_components_of_unknown_parameters(model, name):
    with pytest.raises(UnknownNameError, match=f"Unknown parameter `{name}`"):
        model.component_of(name)


def test_unknown_layer_is_named():
    spec = dataclasses.replace(SPEC, branch_points={**SPEC.branch_points, "depth": "blocks.77"})

    with pytest.raises(UnknownNameError, match=r"Unknown layer `blocks\.77`, did you mean `blocks"):
        spec.build()


def test_a_backbone_without_a_branch_point_is_refused(model):
    with pytest.raises(UnknownNameError, match=r"Unknown layer `blocks\.4`"):
        MultiTaskModel(
            dataclasses.replace(SPEC, branch_points=dict.fromkeys(SPEC.decoders, "blocks.4")), model.backbone
        )


def test_description_survives_json():
    values = json.loads(json.dumps(SPEC.to_dict()))

    assert values == SPEC.to_dict()
    assert ModelSpec.from_dict(values) == SPEC
    assert list(ModelSpec.from_dict(values).decoders) == list(SPEC.decoders)


def test_descriptions_with_other_keys_are_refused():
    values = SPEC.to_dict()
    del values["dense"]

    with pytest.raises(
        ValueError, match=r"Expected a model description with the keys \['backbone', .*but got"
    ):
        ModelSpec.from_dict(values)


def test_descriptions_with_unknown_settings_are_refused():
    values = SPEC.to_dict() | {"backbone": {"name": "resnet18", "depth": 3}}

    with pytest.raises(
        ValueError, match=r"Expected a model description that this version can read, but got .*depth"
    ):
        ModelSpec.from_dict(values)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoders": {}}, "Expected `decoders` to have at least one task, but got none"),
        (
            {"out_channels": {"depth": 1}},
            "Expected `out_channels` to be given for the tasks segmentation, depth, scene, but got",
        ),
        ({"branch_points": {"depht": "blocks.1"}}, "Unknown task `depht`, did you mean `depth`"),
    ],
    ids=["no_task", "channels", "branch_point"],
)
def test_descriptions_that_contradict_themselves(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SPEC, **changes)


@pytest.mark.parametrize("task", ["backbone", "a.b", "", "keys", "training"])
def test_task_names_that_modules_cannot_have(task):
    message = "Expected a task's name to be free of dots and not a name that modules use, but got"
    with pytest.raises(ValueError, match=message):
        ModelSpec(BackboneSpec("resnet18"), {task: DecoderSpec()}, {task: 1}, {task: True})


def test_conv_and_block_outputs_of_one_block_differ(model):
    from lomt.models import create_backbone

    cut = truncate(create_backbone(SPEC.backbone), ["blocks.2.1", "blocks.2.1.conv_pwl"]).eval()
    features = cut(torch.randn(2, 3, 48, 72))

    assert features["blocks.2.1"].shape == features["blocks.2.1.conv_pwl"].shape
    assert not torch.allclose(features["blocks.2.1"], features["blocks.2.1.conv_pwl"])


def test_exports_as_one_program(model):
    eval_model = copy.deepcopy(model).eval()
    images = torch.randn(2, 3, 48, 72)
    batch = torch.export.Dim("batch", min=1, max=16)

    program = torch.export.export(eval_model, (images,), dynamic_shapes=({0: batch},))

    other = torch.randn(3, 3, 48, 72)
    for task, value in program.module()(other).items():
        torch.testing.assert_close(value, eval_model(other)[task], rtol=1e-5, atol=1e-5)
