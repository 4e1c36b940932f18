import copy

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lomt.errors import ArtifactError, UnknownNameError
from lomt.models import BackboneSpec, create_backbone, last_layer, list_layers, load_shared, truncate
from lomt.models.truncate import GraphBackbone
from tests.reference.intermediate_features import convolution_macs, intermediate_features

SIZE = (64, 64)
SMALL_VGG = BackboneSpec("vgg11", options={"mlp_ratio": 1 / 64})

# Layers: the end, a block in the middle, a stage, a raw convolution.
FAMILIES = {
    "resnet18": (BackboneSpec("resnet18"), ["layer4.1", "layer2.0", "layer1", "layer3.0.conv1"]),
    "resnet50d_stride8": (
        BackboneSpec("resnet50d", output_stride=8, options={"stem_width": 16, "layers": (1, 2, 2, 1)}),
        ["layer4.0", "layer3.1", "layer2", "layer3.1.conv1", "conv1.3"],
    ),
    "efficientnet_lite0_stride8": (
        BackboneSpec("tf_efficientnet_lite0", output_stride=8, options={"drop_path_rate": 0.2}),
        ["blocks.6.0", "blocks.4.2", "blocks.3", "blocks.4.2.conv_pwl"],
    ),
    "mobilenetv3": (
        BackboneSpec("mobilenetv3_small_100"),
        ["blocks.5.0", "blocks.3.1", "blocks.2.0.conv_dw"],
    ),
    "convnext": (
        BackboneSpec("convnext_atto", options={"drop_path_rate": 0.2}),
        ["stages.3.blocks.1", "stages.2.blocks.3", "stages.1", "stages.2.blocks.0.conv_dw"],
    ),
    "regnet": (BackboneSpec("regnetx_002"), ["s4.b7", "s4.b2", "s2", "stem", "s4.b3.conv2.conv"]),
    "vgg_in_place": (SMALL_VGG, ["features.19", "features.8", "features.4", "features.3"]),
    "nfnet_not_traced_blocks": (BackboneSpec("nfnet_l0"), ["stages.1.0"]),
}


@pytest.fixture(scope="module")
def whole_models():
    return {}


@pytest.fixture(params=FAMILIES, ids=FAMILIES)
def family(request, whole_models):
    spec, names = FAMILIES[request.param]
    if request.param not in whole_models:
        torch.manual_seed(0)
        whole_models[request.param] = create_backbone(spec)
    return whole_models[request.param], names


def assert_same_features(whole, names, images):
    """The truncated model has the whole one's activations bit for bit, and its statistics."""
    cut = truncate(whole, names)
    for training in (True, False):
        whole.train(training)
        cut.train(training)
        torch.manual_seed(1)
        expected = intermediate_features(whole, names, images)
        torch.manual_seed(1)
        with torch.no_grad():
            features = cut(images)
        assert list(features) == list(names)
        for name in names:
            assert torch.equal(features[name], expected[name]), (name, training)
            assert features[name].shape[1] == cut.channels[name]
    for key, value in cut.state_dict().items():
        assert torch.equal(value, whole.state_dict()[key]), key
    return cut


def test_features_equal_those_of_the_whole_model(family):
    whole, names = family
    images = torch.randn(2, 3, *SIZE)

    cut = assert_same_features(copy.deepcopy(whole), names, images)

    entries = whole.state_dict()
    assert all(value.shape == entries[key].shape for key, value in cut.state_dict().items())


@pytest.mark.parametrize(
    "family", ["resnet50d_stride8", "efficientnet_lite0_stride8", "convnext"], indirect=True
)
def test_the_truncated_backbone_costs_what_was_listed(family):
    whole, names = family
    layers = {layer.name: layer for layer in list_layers(whole, SIZE, "all")}

    for name in (names[1], names[-1]):
        cut = truncate(whole, [name]).eval()
        with torch.no_grad(), FlopCounterMode(display=False) as flops:
            cut(torch.zeros(1, 3, *SIZE))
        assert sum(parameter.numel() for parameter in cut.parameters()) == layers[name].params
        assert flops.get_total_flops() == 2 * layers[name].macs == 2 * convolution_macs(cut, SIZE)
        assert cut.channels[name] == layers[name].channels
        assert cut.reduction[name] == layers[name].reduction


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    return create_backbone(BackboneSpec("resnet18"))


def test_modules_after_the_deepest_layer_are_gone(resnet):
    cut = truncate(resnet, ["layer2.0", "layer3.0.conv1"])

    names = [name for name, _ in cut.named_modules()]
    assert "layer3.0.conv1" in names
    assert not any(
        name.startswith(("layer3.0.bn1", "layer3.0.conv2", "layer3.1", "layer4")) for name in names
    )


def test_there_are_no_hooks(resnet):
    cut = truncate(resnet, ["layer2.0"])

    assert not any(module._forward_hooks or module._forward_pre_hooks for module in cut.modules())


def test_the_whole_model_is_left_alone(resnet):
    before = {key: value.clone() for key, value in resnet.state_dict().items()}
    resnet.eval()
    resnet.bn1.train()

    cut = truncate(resnet, ["layer2.0"])
    with torch.no_grad():
        for parameter in cut.parameters():
            parameter.zero_()
    list_layers(resnet, SIZE)

    assert not resnet.training
    assert resnet.bn1.training
    assert all(torch.equal(value, before[key]) for key, value in resnet.state_dict().items())
    resnet.train()


def test_two_names_of_one_output_both_work(resnet):
    features = truncate(resnet, ["layer2", "layer2.1"])(torch.randn(2, 3, *SIZE))

    assert torch.equal(features["layer2"], features["layer2.1"])


def test_copies_are_independent(resnet):
    cut = truncate(resnet, ["layer2.0"])
    images = torch.randn(2, 3, *SIZE)
    expected = cut(images)["layer2.0"].detach().clone()

    twin = copy.deepcopy(cut)
    with torch.no_grad():
        for parameter in cut.parameters():
            parameter.zero_()

    assert torch.equal(twin(images)["layer2.0"], expected)


def test_gradients_reach_the_first_layer(resnet):
    cut = truncate(resnet, ["layer2.0", "layer1"])

    cut(torch.randn(2, 3, *SIZE))["layer2.0"].square().mean().backward()

    assert cut.conv1.weight.grad.abs().sum() > 0


def test_dtype_and_device_follow_the_module(resnet):
    cut = truncate(resnet, ["layer1"]).to(torch.float64)
    assert cut(torch.randn(2, 3, *SIZE, dtype=torch.float64))["layer1"].dtype == torch.float64

    on_meta = truncate(resnet, ["layer1"]).to("meta")
    assert on_meta(torch.randn(2, 3, *SIZE, device="meta"))["layer1"].shape == (2, 64, 16, 16)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_runs_on_cuda(resnet):
    cut = truncate(resnet, ["layer1"]).eval()
    images = torch.randn(2, 3, *SIZE)
    expected = cut(images)["layer1"]

    features = cut.cuda()(images.cuda())["layer1"]

    torch.testing.assert_close(features.cpu(), expected, rtol=1e-3, atol=1e-3)


def test_weights_of_the_whole_model_load(resnet):
    torch.manual_seed(3)
    other = create_backbone(BackboneSpec("resnet18"))
    cut = truncate(other, ["layer2.0"])

    load_shared(cut, resnet.state_dict())

    for key, value in cut.state_dict().items():
        assert torch.equal(value, resnet.state_dict()[key])


def test_weights_load_back_into_the_whole_model(resnet):
    torch.manual_seed(3)
    other = create_backbone(BackboneSpec("resnet18"))

    loaded = other.load_state_dict(truncate(resnet, ["layer2.0"]).state_dict(), strict=False)

    assert not loaded.unexpected_keys
    assert torch.equal(other.layer2[0].conv1.weight, resnet.layer2[0].conv1.weight)


def test_load_shared_names_missing_entries(resnet):
    cut = truncate(resnet, ["layer1"])
    entries = resnet.state_dict()
    del entries["conv1.weight"]

    message = r"Expected the weights to cover the truncated backbone, but got 1 missing keys: conv1.weight\."
    with pytest.raises(ArtifactError, match=message):
        load_shared(cut, entries)


def test_load_shared_names_a_wrong_shape(resnet):
    entries = resnet.state_dict() | {"conv1.weight": torch.zeros(1)}

    message = r"but got 1 keys of another shape: conv1.weight \(1,\) instead of \(64, 3, 7, 7\)\."
    with pytest.raises(ArtifactError, match=message):
        load_shared(truncate(resnet, ["layer1"]), entries)


def test_unknown_layer_is_named(resnet):
    with pytest.raises(UnknownNameError, match=r"Unknown layer `layer2.9`, did you mean `layer2"):
        truncate(resnet, ["layer2.9"])


def test_no_layer_is_refused(resnet):
    with pytest.raises(ValueError, match="Expected `layer_names` to name at least one layer, but got none"):
        truncate(resnet, [])


@pytest.mark.parametrize(
    ("spec", "expected"),
    [(BackboneSpec("mobilenetv3_small_100"), "blocks.5.0"), (SMALL_VGG, "features.20")],
    ids=["blocks", "no_blocks"],
)
def test_last_layer(spec, expected):
    assert last_layer(create_backbone(spec)) == expected


def test_features_that_are_overwritten_later_are_copied_first():
    """ReLU in VGG works in place on the convolution's output, which here is also a feature."""
    whole = create_backbone(SMALL_VGG).eval()
    images = torch.randn(1, 3, 16, 16)

    cut = truncate(whole, ["features.0", "features.3"]).eval()

    assert isinstance(cut, GraphBackbone)
    assert cut(images)["features.0"].min() < 0
