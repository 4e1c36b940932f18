import pytest
import torch
from torch import nn

from lomt.errors import UnknownNameError
from lomt.models import BackboneSpec, Layer, create_backbone, inspect_backbone, list_layers


@pytest.fixture(scope="module")
def resnet_layers():
    backbone = create_backbone(BackboneSpec("resnet50d", options={"stem_width": 16, "layers": (1, 2, 1, 1)}))
    return {layer.name: layer for layer in list_layers(backbone, (64, 96), "all")}


@pytest.fixture(scope="module")
def lite0():
    return create_backbone(BackboneSpec("tf_efficientnet_lite0", output_stride=16))


def test_convolutions_of_a_resnet(resnet_layers):
    convolutions = [name for name, layer in resnet_layers.items() if layer.kind == "conv"]

    # 3 in the stem, 3 in each of 5 blocks, 4 in shortcuts (the blocks that change channels).
    assert len(convolutions) == 3 + 15 + 4
    assert convolutions[:5] == ["conv1.0", "conv1.3", "conv1.6", "layer1.0.conv1", "layer1.0.conv2"]


def test_costs_of_the_stem_are_those_computed_by_hand(resnet_layers):
    assert resnet_layers["conv1.0"] == Layer(
        name="conv1.0",
        kind="conv",
        channels=16,
        reduction=2,
        params=16 * 3 * 9,
        macs=16 * 3 * 9 * 32 * 48,
        is_bypassable=False,
    )
    # The second convolution reads the first through a BatchNorm of 2 x 16 parameters.
    assert resnet_layers["conv1.3"].params == 16 * 3 * 9 + 32 + 16 * 16 * 9
    assert resnet_layers["conv1.3"].macs == (16 * 3 * 9 + 16 * 16 * 9) * 32 * 48


def test_a_shortcut_costs_only_what_it_reads(resnet_layers):
    shortcut, before = resnet_layers["layer2.0.downsample.1"], resnet_layers["layer1.0"]

    assert shortcut.params == before.params + 256 * 512
    assert shortcut.macs < resnet_layers["layer2.0.conv3"].macs


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("layer2.1", True),  # identity shortcut
        ("layer2.0", False),  # a convolution stands in the shortcut
        ("layer2.1.conv3", True),
        ("layer2.0.conv1", True),
        ("layer2.0.downsample.1", True),
        ("layer2", False),
        ("conv1.3", False),
    ],
)
def test_what_features_can_bypass_in_a_resnet(resnet_layers, name, expected):
    assert resnet_layers[name].is_bypassable is expected


def test_what_features_can_bypass_in_an_inverted_residual(lite0):
    layers = {layer.name: layer for layer in list_layers(lite0, (64, 64), "all")}

    assert layers["blocks.4.2"].is_bypassable
    assert not layers["blocks.4.0"].is_bypassable
    assert not layers["blocks.4.0.conv_pwl"].is_bypassable


def test_blocks_of_an_efficientnet_have_their_channels_and_reduction(lite0):
    blocks = list_layers(lite0, (64, 64))

    assert len(blocks) == 16
    assert [(b.name, b.channels, b.reduction) for b in blocks[::5]] == [
        ("blocks.0.0", 16, 2),
        ("blocks.3.0", 80, 16),
        ("blocks.4.2", 112, 16),
        ("blocks.6.0", 320, 16),
    ]


def test_costs_grow_along_blocks_and_macs_with_the_pixels(lite0):
    small, large = list_layers(lite0, (64, 64)), list_layers(lite0, (128, 64))

    params, macs = [layer.params for layer in small], [layer.macs for layer in small]
    assert params == sorted(set(params))
    assert macs == sorted(set(macs))
    assert [layer.macs for layer in large] == [2 * count for count in macs]
    assert [layer.params for layer in large] == params


def test_a_model_without_blocks_lists_its_stages():
    backbone = create_backbone(BackboneSpec("vgg11", options={"mlp_ratio": 1 / 64}))

    layers = list_layers(backbone, (32, 32))

    assert [(layer.name, layer.kind) for layer in layers][:2] == [
        ("features.1", "stage"),
        ("features.4", "stage"),
    ]


def test_a_size_that_the_model_does_not_take():
    class Picky(nn.Module):
        def __init__(self):
            super().__init__()
            self.pretrained_cfg = {"input_size": (3, 8, 8)}
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, images):
            return self.conv(images).reshape(-1, 4, 8, 8)

    message = r"Expected `size` to be one that the backbone takes, but got \(9, 9\): RuntimeError"
    with pytest.raises(ValueError, match=message):
        list_layers(Picky(), (9, 9))


def test_shared_weights_count_once():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, images):
            return self.conv(self.conv(images) * self.scale)

    (layer,) = list_layers(Shared(), (8, 8), "conv")

    assert (layer.params, layer.macs) == (9 + 3 + 1, 2 * 9 * 64)


def test_inspect_by_name():
    layers = inspect_backbone("resnet18", size=(64, 64), output_stride=8, options={"stem_width": 32})

    deepest = next(layer for layer in layers if layer.name == "layer4")
    assert (deepest.channels, deepest.reduction, deepest.kind) == (512, 8, "stage")


def test_inspect_an_unknown_name():
    with pytest.raises(UnknownNameError, match="Unknown backbone `no_such`"):
        inspect_backbone("no_such")
