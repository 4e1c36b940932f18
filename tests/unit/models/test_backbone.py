import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lomt.errors import ArtifactError, UnknownNameError
from lomt.models import BackboneSpec, create_backbone, truncate

TINY = BackboneSpec("mobilenetv3_small_050")


@pytest.fixture(scope="module")
def entries():
    torch.manual_seed(5)
    return timm.create_model(TINY.name).state_dict()


def test_the_papers_backbone_has_the_published_size():
    backbone = create_backbone(BackboneSpec("resnet50d", output_stride=8, options={"stem_width": 64}))

    convolutions = [module for module in backbone.modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) == 55
    assert sum(convolution.weight.numel() for convolution in convolutions) == 23_578_304
    assert sum(convolution.in_channels for convolution in convolutions) == 22_787
    stem = [m for m in backbone.conv1 if isinstance(m, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels, c.stride[0]) for c in stem] == [
        (3, 64, 2),
        (64, 64, 1),
        (64, 128, 1),
    ]
    assert backbone.layer3[1].conv2.dilation == (2, 2)
    assert backbone.layer4[1].conv2.dilation == (4, 4)


def test_options_read_from_json_equal_those_written():
    assert BackboneSpec("vit", options={"img_size": [32, 48]}) == BackboneSpec(
        "vit", options={"img_size": (32, 48)}
    )


def test_unknown_name_is_named():
    with pytest.raises(UnknownNameError, match="Unknown backbone `resnet5O`, did you mean `resnet50`"):
        create_backbone(BackboneSpec("resnet5O"))


@pytest.mark.parametrize(
    "spec",
    [
        BackboneSpec("vit_tiny_patch16_224", output_stride=8),
        BackboneSpec("resnet18", options={"depht": 3}),
        BackboneSpec("resnet18", output_stride=7),
    ],
    ids=["no_output_stride", "unknown_option", "odd_output_stride"],
)
def test_settings_that_the_model_does_not_take(spec):
    message = (
        f"Expected `options` and `output_stride` of backbone `{spec.name}` to be ones that timm's model takes"
    )
    with pytest.raises(ValueError, match=message):
        create_backbone(spec)


def test_a_model_that_keeps_its_pooling():
    backbone = create_backbone(BackboneSpec("efficientvit_b0"))

    images = torch.zeros(1, 3, 32, 32)
    assert backbone.eval()(images).ndim == 2
    assert truncate(backbone, ["stages.0"]).eval()(images)["stages.0"].shape[2:] == (8, 8)


def test_weights_from_a_file_without_the_classifier(entries, tmp_path):
    save_file(entries, tmp_path / "weights.safetensors")

    backbone = create_backbone(TINY, tmp_path / "weights.safetensors")

    own = backbone.state_dict()
    assert all(torch.equal(value, entries[key]) for key, value in own.items())
    assert set(entries) - set(own) == {"classifier.weight", "classifier.bias"}


def test_weights_of_another_model_are_refused(entries, tmp_path):
    wrong = {key: value for key, value in entries.items() if key != "conv_stem.weight"}
    save_file(wrong | {"stem.weight": torch.zeros(1)}, tmp_path / "weights.safetensors")

    message = r"but got 1 missing keys: conv_stem.weight; 1 unexpected keys: stem.weight\."
    with pytest.raises(ArtifactError, match=message):
        create_backbone(TINY, tmp_path / "weights.safetensors")


def test_many_missing_keys_are_counted(entries, tmp_path):
    save_file({}, tmp_path / "weights.safetensors")

    with pytest.raises(ArtifactError, match=r"\d+ missing keys: blocks\.0.* and \d+ more\."):
        create_backbone(TINY, tmp_path / "weights.safetensors")


def test_weights_of_another_width_are_refused(entries, tmp_path):
    save_file(entries | {"conv_stem.weight": torch.zeros(4, 3, 3, 3)}, tmp_path / "weights.safetensors")

    message = r"1 keys of another shape: conv_stem.weight \(4, 3, 3, 3\) instead of \(16, 3, 3, 3\)\."
    with pytest.raises(ArtifactError, match=message):
        create_backbone(TINY, tmp_path / "weights.safetensors")


def test_missing_file(tmp_path):
    with pytest.raises(
        ArtifactError, match=r"Expected a safetensors file at .*none.safetensors, but there is none"
    ):
        create_backbone(TINY, tmp_path / "none.safetensors")


def test_damaged_file(tmp_path):
    (tmp_path / "weights.safetensors").write_bytes(b"x" * 100)

    with pytest.raises(ArtifactError, match=r"Expected .* to be a safetensors file, but got"):
        create_backbone(TINY, str(tmp_path / "weights.safetensors"))


def test_no_network(monkeypatch):
    def refuse(*args, pretrained, **kwargs):
        assert pretrained
        raise OSError("network is unreachable")

    monkeypatch.setattr(timm, "create_model", refuse)

    message = (
        r"Expected timm's pretrained weights of `mobilenetv3_small_050` to be available, but got OSError: "
        r"network is unreachable. Where there is no network, fetch the model's `model.safetensors` elsewhere"
    )
    with pytest.raises(ArtifactError, match=message):
        create_backbone(TINY, "pretrained")


def test_pretrained_weights_are_asked_of_timm(monkeypatch):
    asked = {}

    def record(name, **kwargs):
        asked.update(kwargs, name=name)
        return nn.Identity()

    monkeypatch.setattr(timm, "create_model", record)

    create_backbone(BackboneSpec("resnet18", output_stride=16), "pretrained")

    expected = {
        "pretrained": True,
        "num_classes": 0,
        "global_pool": "",
        "output_stride": 16,
        "name": "resnet18",
    }
    assert asked == expected


def test_published_weights_load(lite0_weights):
    backbone = create_backbone(BackboneSpec("tf_efficientnet_lite0", output_stride=8), lite0_weights)

    entries = load_file(lite0_weights)
    assert torch.equal(backbone.conv_stem.weight, entries["conv_stem.weight"])
    assert torch.equal(backbone.blocks[6][0].conv_pwl.weight, entries["blocks.6.0.conv_pwl.weight"])
