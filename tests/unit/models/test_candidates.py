import pytest
import timm
import torch
from torch import nn

from lomt.models import BackboneSpec, create_backbone
from lomt.models.candidates import feature_graph
from lomt.models.graph import NotTraceableError


def names_by_kind(model):
    found = {"block": [], "stage": [], "conv": []}
    for layer in feature_graph(model).candidates:
        found[layer.kind].append(layer.name)
    return found


class _Residual(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, features):
        return features + self.conv(features)


class _Gated(_Residual):
    def forward(self, features):
        return features * self.conv(features.mean((2, 3), keepdim=True)).sigmoid()


class _Stage(nn.Module):
    """Hands features on, without arithmetic of its own."""

    def __init__(self, channels, depth):
        super().__init__()
        self.parts = nn.Sequential(*(_Residual(channels) for _ in range(depth)))

    def forward(self, features):
        return self.parts(features)


class _Toy(nn.Sequential):
    """A stem of bare layers, a row of blocks, a stage that holds a row, a gate; one layer is too deep."""

    def __init__(self):
        stem = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU())
        row = nn.Sequential(_Residual(4), _Residual(4))
        super().__init__(stem, row, _Stage(4, 2), _Gated(4), _Residual(4))
        self.feature_info = [
            {"module": "0", "num_chs": 4, "reduction": 2},
            {"module": "3", "num_chs": 4, "reduction": 2},
        ]


def test_blocks_stages_and_convolutions():
    assert names_by_kind(_Toy()) == {
        "block": ["1.0", "1.1", "2.parts.0", "2.parts.1", "3"],
        "stage": ["0", "1", "2.parts"],
        # The gate's convolution sees one pixel.
        "conv": ["0.0", "1.0.conv", "1.1.conv", "2.parts.0.conv", "2.parts.1.conv", "4.conv"],
    }


def test_order_is_that_of_the_forward_pass():
    names = [layer.name for layer in feature_graph(_Toy()).candidates]

    assert names[:7] == ["0.0", "0", "1.0.conv", "1.0", "1.1.conv", "1.1", "1"]


def test_blocks_and_stages_of_a_resnet():
    found = names_by_kind(create_backbone(BackboneSpec("resnet18", options={"layers": (1, 2, 1, 1)})))

    assert found["block"] == ["layer1.0", "layer2.0", "layer2.1", "layer3.0", "layer4.0"]
    assert found["stage"] == ["act1", "layer1", "layer2", "layer3", "layer4"]


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "regnetx_002", "convnext_atto", "nfnet_l0"])
def test_channels_and_reduction_are_those_that_timm_lists(name):
    model = timm.create_model(name, num_classes=0, global_pool="")
    found = {layer.name: (layer.channels, layer.reduction) for layer in feature_graph(model).candidates}

    assert {
        info["module"]: (info["num_chs"], info["reduction"]) for info in model.feature_info
    }.items() <= found.items()


class _Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Linear(3, 4)

    def forward(self, images):
        return self.conv(images.flatten(2).transpose(1, 2))


def test_features_of_another_form_than_listed():
    model = _Toy()
    model.feature_info[1]["num_chs"] = 5

    message = r"`3` puts out shape \(1, 4, 112, 112\), not \(batch, 5, height, width\)"
    with pytest.raises(NotTraceableError, match=message):
        feature_graph(model)


def test_a_model_without_maps():
    message = r"no layer puts out features of the form \(batch, channels, height, width\)"
    with pytest.raises(NotTraceableError, match=message):
        feature_graph(_Tokens())


def test_the_model_is_left_alone():
    model = _Toy().eval()
    model[0].train()
    before = {key: value.clone() for key, value in model.state_dict().items()}

    graph = feature_graph(model)

    assert [part.training for part in (model, model[0], model[1])] == [False, True, False]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.device.type == "meta" for parameter in graph.twin.parameters())
