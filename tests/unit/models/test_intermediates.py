"""A vision transformer's blocks exchange tokens, not maps: timm's own wrapper turns them into maps."""

import copy
import logging

import pytest
import torch

from lomt.errors import UnknownNameError, UnsupportedLayerError
from lomt.models import BackboneSpec, create_backbone, last_layer, list_layers, truncate
from lomt.models.intermediates import Backbone
from tests.reference.intermediate_features import convolution_macs, intermediate_features


@pytest.fixture(scope="module")
def transformer():
    torch.manual_seed(0)
    options = {"img_size": (32, 48), "patch_size": 8, "depth": 3, "drop_path_rate": 0.2}
    return create_backbone(BackboneSpec("vit_tiny_patch16_224", options=options))


def test_features_equal_those_of_the_whole_model(transformer, caplog):
    names, images = ["blocks.1", "blocks.0"], torch.randn(2, 3, 32, 48)
    whole = copy.deepcopy(transformer)

    with caplog.at_level(logging.WARNING, "lomt"):
        cut = truncate(whole, names)

    assert "is cut only at 3 layers that timm lists, because `blocks.0` puts out shape" in caplog.text
    for training in (True, False):
        whole.train(training)
        cut.train(training)
        torch.manual_seed(1)
        expected = intermediate_features(whole, names, images)
        torch.manual_seed(1)
        features = cut(images)
        for name in names:
            assert features[name].shape == (2, 192, 4, 6)
            tokens = features[name].flatten(2).transpose(1, 2)
            assert torch.equal(tokens, expected[name][:, 1:])


def test_keys_channels_and_reduction(transformer):
    cut = truncate(transformer, ["blocks.1"])

    assert set(cut.state_dict()) <= set(transformer.state_dict())
    assert not any(key.startswith("blocks.2") for key in cut.state_dict())
    assert (cut.channels, cut.reduction) == ({"blocks.1": 192}, {"blocks.1": 8})


def test_costs(transformer):
    for layer in list_layers(transformer, (32, 48)):
        cut = truncate(transformer, [layer.name]).eval()
        assert sum(parameter.numel() for parameter in cut.parameters()) == layer.params
        linear = convolution_macs(cut, (32, 48))
        attention = 2 * 25 * 25 * 192 * (int(layer.name[-1]) + 1)
        assert layer.macs == linear + attention


def test_copies_are_independent_and_follow_the_dtype(transformer):
    cut = truncate(transformer, ["blocks.1"]).eval()
    images = torch.randn(2, 3, 32, 48)
    expected = cut(images)["blocks.1"].detach().clone()

    twin = copy.deepcopy(cut)
    with torch.no_grad():
        for parameter in cut.parameters():
            parameter.zero_()

    assert torch.equal(twin(images)["blocks.1"], expected)
    assert twin.double()(images.double())["blocks.1"].dtype == torch.float64
    assert twin.train()._timm_model.training


def test_last_layer(transformer):
    assert last_layer(transformer) == "blocks.2"


def test_unknown_layer_is_named(transformer):
    with pytest.raises(UnknownNameError, match=r"Unknown layer `blocks.7`, did you mean `blocks"):
        truncate(transformer, ["blocks.7"])


def test_convolutions_cannot_be_listed(transformer):
    message = "Expected `granularity` to be `block` for VisionTransformer, whose convolutions cannot"
    with pytest.raises(UnsupportedLayerError, match=message):
        list_layers(transformer, (32, 48), "conv")


def test_a_wrong_size_is_named(transformer):
    message = r"Expected `size` to be one that the backbone takes, but got \(64, 64\)"
    with pytest.raises(ValueError, match=message):
        list_layers(transformer, (64, 64))


def test_the_bare_class_computes_nothing():
    with pytest.raises(
        TypeError, match="Expected a kind of `Backbone` made by `truncate`, but got the bare class"
    ):
        Backbone({}, {})(torch.randn(1, 3, 8, 8))
