import json

import numpy as np
import onnx
import pytest
import timm
import torch
import torchvision
from timm.models.resnet import BasicBlock, ResNet
from torch import nn

from lomt.deploy import OnnxModel, export_onnx
from lomt.pruning.apply import apply_plan
from lomt.pruning.dead_layers import find_dead, saved
from lomt.pruning.plan import PruningPlan, Replacement
from lomt.structure import trace_structure

EXACT = 1e-9
LAYERS = (nn.Conv2d, nn.Linear)


def example(size=64, count=1, wider=0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, size, size + wider, generator=generator, dtype=torch.float64)


def lively(model, seed=0):
    """Give norms statistics and affine parameters as after training, and everything float64."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.weight.data = torch.rand(module.num_features, generator=generator) + 0.5
            module.bias.data = torch.randn(module.num_features, generator=generator) * 0.3
            module.running_mean = torch.randn(module.num_features, generator=generator) * 0.3
            module.running_var = torch.rand(module.num_features, generator=generator) + 0.5
    return model.double().eval()


def made(name, **options):
    torch.manual_seed(0)
    return lively(timm.create_model(name, **options))


def small():
    """A ResNet of timm's blocks, two a stage, with few channels."""
    torch.manual_seed(0)
    return lively(ResNet(BasicBlock, [2, 2, 2, 1], num_classes=5, channels=(8, 12, 16, 20)))


def kill(model, *layers, bias=True):
    for layer in layers:
        module = model.get_submodule(layer)
        nn.init.zeros_(module.weight)
        if bias and module.bias is not None:
            nn.init.normal_(module.bias)
    return model


def replaced(model, inputs, **options):
    """The model with its dead parts replaced, and the replacements, through JSON."""
    found = find_dead(model, inputs, trace_structure(model, inputs), **options)
    found = tuple(Replacement(own.module, own.kind, json.loads(json.dumps(own.options))) for own in found)
    plan = PruningPlan({}, {}, (), found, {}, {}, 0, 0, 0, 0)
    return apply_plan(model, plan), found


def computed_layers(model, inputs):
    """Convolutions and linear layers that run."""
    found = []
    hooks = [
        module.register_forward_hook(lambda *_, path=path: found.append(path))
        for path, module in model.named_modules()
        if isinstance(module, LAYERS)
    ]
    with torch.no_grad():
        model(inputs)
    for hook in hooks:
        hook.remove()
    return set(found)


def assert_same_function(smaller, model, *inputs):
    for own in inputs:
        with torch.no_grad():
            expected, found = model(own.clone()), smaller(own.clone())
        assert found.shape == expected.shape
        assert (found - expected).abs().max() <= EXACT * expected.abs().max()


def assert_gone(model, gone, *inputs):
    """Exactly these layers are not computed any more; the outputs stay."""
    smaller, found = replaced(model, inputs[0])
    assert computed_layers(model, inputs[0]) - computed_layers(smaller, inputs[0]) == set(gone)
    assert_same_function(smaller, model, *inputs)
    structure = trace_structure(model, inputs[0])
    params, layers = saved(model, structure, found)
    assert params == count(model) - count(smaller) > 0
    macs = structure.layer_macs()
    left = trace_structure(smaller, inputs[0])
    assert left.macs() == sum(macs[layer] for layer in macs if layer not in layers)
    return smaller, found


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def layers_in(model, *blocks):
    return [
        path
        for path, module in model.named_modules()
        if isinstance(module, LAYERS) and any(path.startswith(f"{block}.") for block in blocks)
    ]


@pytest.mark.parametrize(
    "name, last",
    [("resnet18", "conv2"), pytest.param("resnet50", "conv3", marks=pytest.mark.slow)],
)
def test_one_in_three_residual_branches(name, last):
    model = made(name)
    blocks = [path for path, _ in model.named_modules() if path.startswith("layer") and path.count(".") == 1]
    dead = blocks[1::3]
    kill(model, *(f"{block}.{last}" for block in dead))
    gone = [layer for layer in layers_in(model, *dead) if "downsample" not in layer]

    _, found = assert_gone(model, gone, example(), example(75, 2, 13, seed=1), example(40, 3))

    assert {own.module for own in found if own.kind == "constant"} == {
        f"{block}.{last.replace('conv', 'bn')}" for block in dead
    }


def test_a_dead_stage():
    model = made("resnet18")
    kill(model, "layer4.0.conv2", "layer4.1.conv2")
    gone = [f"layer4.{block}.conv{number}" for block in (0, 1) for number in (1, 2)]

    assert_gone(model, gone, example(), example(75, 2, 13))


def test_a_dead_norm_at_the_end_of_a_branch():
    model = small()
    nn.init.zeros_(model.layer1[0].bn2.weight)

    assert_gone(model, ["layer1.0.conv1", "layer1.0.conv2"], example(), example(75, 2, 13))


def test_a_dead_shortcut_with_average_pooling():
    model = kill(made("resnet26d"), "layer2.0.downsample.1")

    _, found = assert_gone(model, ["layer2.0.downsample.1"], example(), example(75, 2, 13))

    assert [(own.module, own.kind) for own in found] == [("layer2.0.downsample", "constant")]


def test_shared_activations_that_write_in_place():
    torch.manual_seed(0)
    model = lively(torchvision.models.resnet18())
    kill(model, "layer1.0.conv2", "layer2.0.conv2")
    gone = ["layer1.0.conv1", "layer1.0.conv2", "layer2.0.conv1", "layer2.0.conv2"]

    _, found = assert_gone(model, gone, example(), example(75, 2, 13))

    assert all(own.options["is_writable"] for own in found if own.kind == "skip")


def test_a_convolution_that_would_bend_the_constant_is_computed():
    model = kill(small(), "layer1.0.conv1")

    smaller, _ = assert_gone(model, ["layer1.0.conv1"], example(), example(75, 2, 13))

    assert isinstance(smaller.layer1[0].conv2, nn.Conv2d)


def test_a_convolution_over_zeros_bends_nothing():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 6, 3, padding=1), Sum(3, 6)
    ).double()
    kill(model, "0", bias=False)
    nn.init.zeros_(model[0].bias)
    smaller, found = replaced(model, example(8))

    assert {own.module for own in found} >= {"0", "1"}
    assert isinstance(smaller[3], nn.Conv2d)
    assert_same_function(smaller, model, example(8), example(9, 2, 3))


class Sum(nn.Module):
    """Keeps the network alive beside a branch: the mean of what is given."""

    def __init__(self, given, channels):
        super().__init__()
        self.mix = nn.Conv2d(channels, channels, 1)

    def forward(self, features):
        return self.mix(features).mean((2, 3))


def test_one_pixel_features_do_not_hide_a_bend():
    """On a map of one pixel every convolution puts out the same everywhere."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 3, padding=1), nn.Conv2d(5, 2, 1)
    ).double()
    kill(model, "1")
    smaller, _ = replaced(model, example(8))
    assert_same_function(smaller, model, example(8))
    assert isinstance(smaller[2], nn.Conv2d)


@pytest.mark.parametrize("name", ["resnetv2_18", pytest.param("resnetv2_50", marks=pytest.mark.slow)])
def test_before_activation_nothing_is_added(name):
    model = made(name)
    last = "conv2" if name == "resnetv2_18" else "conv3"
    kill(model, f"stages.0.blocks.1.{last}", f"stages.1.blocks.0.{last}")
    gone = layers_in(model, "stages.0.blocks.1", "stages.1.blocks.0")

    _, found = assert_gone(
        model, [own for own in gone if "downsample" not in own], example(), example(75, 2, 13)
    )

    assert Replacement("stages.0.blocks.1", "identity") in found


@pytest.mark.parametrize(
    "name",
    [
        "tf_efficientnet_lite0",
        "mobilenetv3_small_100",
        pytest.param("efficientnet_b0", marks=pytest.mark.slow),
    ],
)
def test_inverted_residuals(name):
    model = made(name)
    dead = ["blocks.1.1", "blocks.3.1"]
    kill(model, *(f"{block}.conv_pwl" for block in dead))

    _, found = assert_gone(model, layers_in(model, *dead), example(), example(75, 2, 13))

    assert {own.options["spread"] for own in found if own.kind == "constant"} == {"small"}


def test_all_before_a_dead_layer_without_a_shortcut_goes():
    """Also sizes that come of padding as in TensorFlow are kept."""
    model = kill(made("tf_mobilenetv3_small_minimal_100"), "blocks.2.0.conv_pw")
    layers = [path for path, module in model.named_modules() if isinstance(module, LAYERS)]
    gone = layers[: layers.index("blocks.2.0.conv_pw") + 1]

    assert len(gone) > 9
    assert_gone(model, gone, example(), example(75, 2, 13))


def test_a_block_whose_layer_scale_is_zero():
    model = made("convnext_atto", depths=(2, 1, 1, 1), dims=(16, 16, 16, 16), ls_init_value=1e-6)
    nn.init.ones_(model.stages[0].blocks[0].gamma)
    nn.init.zeros_(model.stages[0].blocks[1].gamma)

    _, found = assert_gone(model, layers_in(model, "stages.0.blocks.1"), example(), example(96, 2, 32))

    assert found == (Replacement("stages.0.blocks.1", "identity"),)


def test_pooling_over_everything_is_told_from_a_stride():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 5, 1), nn.Flatten(), nn.Linear(5, 2)
    model = kill(nn.Sequential(*layers).double(), "2")

    smaller, found = replaced(model, example(4))

    assert {own.module for own in found} >= {"0", "1", "2"}
    assert_same_function(smaller, model, example(4), example(9, 2, 3))


def test_a_layer_scale_at_zero_before_a_layer():
    model = Scaled().double()

    smaller, found = replaced(model, example(8))

    assert {own.module for own in found} == {"layer", "next"}
    assert_same_function(smaller, model, example(8), example(9, 2, 3))


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.next, self.beside = (
            nn.Conv2d(3, 4, 3, stride=2),
            nn.Conv2d(4, 2, 1),
            nn.Conv2d(3, 2, 1),
        )
        self.gamma = nn.Parameter(torch.zeros(4, 1, 1))

    def forward(self, images):
        features = self.layer(images)
        features *= self.gamma
        return self.next(features).mean((2, 3)) + self.beside(images).mean((2, 3))


def test_a_dead_mlp_that_adds_a_constant():
    model = kill(
        made("convnext_atto", depths=(2, 1, 1, 1), dims=(16, 16, 16, 16)), "stages.0.blocks.1.mlp.fc2"
    )

    gone = layers_in(model, "stages.0.blocks.1")
    assert_gone(model, gone, example(), example(96, 2, 32))


def test_a_transformer_without_an_mlp_and_without_an_attention():
    model = made("vit_tiny_patch16_224", depth=3, img_size=64)
    kill(model, "blocks.0.mlp.fc2", "blocks.1.attn.proj")
    gone = layers_in(model, "blocks.0.mlp", "blocks.1.attn")

    _, found = assert_gone(model, gone, example(), example(64, 3))

    assert {own.module: own.kind for own in found} == {
        "blocks.0.mlp": "constant",
        "blocks.0.norm2": "skip",
        "blocks.1.attn": "constant",
        "blocks.1.norm1": "skip",
    }


class Twins(nn.Module):
    """A layer that is never called, one whose result nobody reads, and one that is called twice."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.never = nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3))
        self.spare = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
        self.unread = nn.Conv2d(3, 8, 3)
        self.twice = nn.Conv2d(3, 3, 1)

    def forward(self, images):
        self.unread(images)
        return {"sum": self.twice(self.twice(images)), "mean": images.mean()}


def test_unused_layers():
    model = Twins().double().eval()
    structure = trace_structure(model, example(8))

    found = find_dead(model, example(8), structure)

    assert [(own.module, own.kind) for own in found] == [
        ("never", "identity"),
        ("spare.0", "identity"),
        ("spare.1", "identity"),
        ("unread", "skip"),
    ]
    assert saved(model, structure, found) == (90 + 12 + 224, {"unread"})


def test_a_layer_called_twice_and_one_under_two_names_stay():
    model = Twins().double().eval()
    model.again = model.unread
    kill(model, "twice")

    found = find_dead(model, example(8), trace_structure(model, example(8)))

    assert {own.module for own in found} == {"never", "spare.0", "spare.1"}


def test_shared_parameters_are_not_saved():
    model = Twins().double().eval()
    model.spare[1].weight = model.spare[0].weight

    params, _ = saved(model, trace_structure(model, example(8)), [Replacement("spare.1", "identity")])

    assert params == 2


def test_protected_layers_stay_with_all_that_hangs_on_them():
    model = kill(small(), "layer1.0.conv2", "layer2.1.conv2")

    _, found = replaced(model, example(), protect=("layer1.*.conv1",))

    assert {own.module.rpartition(".")[0] for own in found} == {"layer2.1"}


def test_a_living_model_is_left_alone():
    model = small()

    assert find_dead(model, example(), trace_structure(model, example())) == ()


def test_nothing_is_found_twice():
    model = kill(small(), "layer1.0.conv2")
    smaller, _ = replaced(model, example())

    assert find_dead(smaller, example(), trace_structure(smaller, example())) == ()


class Picky(nn.Module):
    """Code between two layers that looks at values which no output needs."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.other = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 3, 1), nn.Conv2d(3, 3, 1)
        self.dead = nn.Conv2d(3, 3, 1)

    def forward(self, images):
        features = self.first(images)
        if not np.any(features.detach().numpy()):
            raise RuntimeError("nothing to see")
        return self.last(features) + self.dead(self.other(images)) + images


def test_what_fails_when_tried_is_left_out():
    model = kill(Picky().double().eval(), "last", "dead")

    smaller, found = replaced(model, example(8))

    assert {own.module for own in found} == {"other", "dead"}
    assert_same_function(smaller, model, example(8), example(9, 2, 3))


def test_the_model_and_its_modes_are_left_as_they_are():
    model = kill(small(), "layer1.0.conv2").train()
    model.layer2.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}

    found = find_dead(model, example(), trace_structure(model, example()))

    assert found
    assert model.training and not model.layer2[0].training
    assert isinstance(model.layer1[0].conv2, nn.Conv2d)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_values_that_are_not_numbers_prove_nothing():
    model = kill(small(), "layer1.0.conv2")
    nn.init.constant_(model.fc.bias, float("nan"))

    assert find_dead(model, example(), trace_structure(model, example())) == ()


def test_single_precision():
    model = kill(small(), "layer1.0.conv2").float()
    images = example().float()

    smaller, found = replaced(model, images)

    assert len(found) == 5
    assert torch.allclose(smaller(images), model(images), rtol=1e-4, atol=1e-5)


class OneTask(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        return {"scene": self.network(images)}


@pytest.mark.parametrize("name", ["small", pytest.param("torchvision", marks=pytest.mark.slow)])
def test_exported(tmp_path, name):
    torch.manual_seed(0)
    model = lively(torchvision.models.resnet18()) if name == "torchvision" else small()
    convolutions = sum(isinstance(module, nn.Conv2d) for module in model.modules())
    model = OneTask(kill(model, "layer1.0.conv2", "layer2.0.conv2", "layer3.1.conv2")).float()
    images = example().float()
    smaller, _ = replaced(model, images)

    path = export_onnx(smaller, images, tmp_path / "model.onnx")

    nodes = [node.op_type for node in onnx.load(path).graph.node]
    assert nodes.count("Conv") == convolutions - 6
    more = example(count=3, seed=5).float()
    with torch.no_grad():
        expected = model(more)["scene"].numpy()
    np.testing.assert_allclose(OnnxModel(path)(more.numpy())["scene"], expected, rtol=1e-3, atol=1e-4)
