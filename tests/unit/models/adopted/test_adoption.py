import pytest
import torch
from torch import nn

from lomt.errors import UnknownNameError, UnsupportedLayerError
from lomt.models import AdoptedModel, AdoptedSpec, AdoptionError, adopt
from tests.reference import own_models

IMAGES = (2, 3, 64, 96)
MODELS = {
    "deep_heads": (own_models.DeepHeads, {}, ("encoder",)),
    "two_unets": (own_models.TwoUNets, {"parts": "0", "depth": "1"}, ("encoder",)),
    "shared_unet": (own_models.SharedUNet, {}, ("encoder", "decoder")),
    "two_inputs": (own_models.TwoInputs, {}, ("encoder", "fuse")),
    "scene_and_depth": (own_models.SceneAndDepth, {}, ("encoder",)),
    "value_dependent": (own_models.ValueDependent, {}, ("encoder",)),
}


def pick(output, place):
    for key in place.split("."):
        output = output[key] if isinstance(output, dict) else output[int(key)]
    return output


def examples(model):
    images = torch.randn(IMAGES, generator=torch.Generator().manual_seed(1))
    return [images, torch.rand(2, 1, 64, 96)] if isinstance(model, own_models.TwoInputs) else [images]


def whole(adoption, points=None):
    tasks = adoption.tasks
    scene = ("scene",)
    spec = AdoptedSpec(
        "none:none", {task: task not in scene for task in tasks}, IMAGES[2:], branch_points=points or {}
    )
    return spec.cut(adoption)


@pytest.fixture(params=MODELS, ids=MODELS)
def case(request):
    kind, outputs, backbone = MODELS[request.param]
    torch.manual_seed(0)
    return kind(), outputs, backbone


def randomise(model):
    """Give norms statistics and scales that a wrong order of operations would show."""
    generator = torch.Generator().manual_seed(2)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.copy_(torch.randn(module.num_features, generator=generator))
            module.running_var.copy_(torch.rand(module.num_features, generator=generator) + 0.5)


def test_the_backbone_is_what_the_tasks_share(case):
    model, outputs, backbone = case
    assert adopt(model, examples(model), outputs=outputs).backbone == backbone


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_the_network_at_its_own_layers_is_bitwise_the_model(case, training):
    model, outputs, _ = case
    randomise(model)
    given = examples(model)
    network = whole(adopt(model, given, outputs=outputs))
    model.train(training)
    network.train(training)
    expected, found = model(*given), network(*given)
    assert list(found)
    for task, prediction in found.items():
        wanted = pick(expected, outputs.get(task, task))
        if wanted.ndim == 4 and wanted.shape[-2:] != IMAGES[2:]:
            wanted = nn.functional.interpolate(wanted, size=IMAGES[2:], mode="bilinear", align_corners=False)
        assert torch.equal(prediction, wanted), task
    if training:
        for name, value in model.named_buffers():
            if "running" in name:
                twins = [own for key, own in network.named_buffers() if key.endswith(name)]
                assert any(torch.equal(value, twin) for twin in twins), name


def test_nothing_is_shared_with_the_model(case):
    model, outputs, _ = case
    network = whole(adopt(model, examples(model), outputs=outputs))
    own = {value.data_ptr() for value in model.state_dict().values()}
    assert not own & {value.data_ptr() for value in network.state_dict().values()}


def test_blocks_rows_and_what_decoders_read_are_candidates():
    adoption = adopt(own_models.TwoUNets(), [torch.zeros(IMAGES)], outputs={"parts": "0", "depth": "1"})
    names = list(adoption.features)
    assert names == [
        "encoder.stem",
        "encoder.layer1.0",
        "encoder.layer1.1",
        "encoder.layer1",
        "encoder.layer2.0",
        "encoder.layer2.1",
        "encoder.layer2",
        "encoder.layer3.0",
        "encoder.layer3.1",
        "encoder.layer3",
    ]
    assert adoption.read("parts") == (
        "encoder.stem",
        "encoder.layer1.1",
        "encoder.layer2.1",
        "encoder.layer3.1",
    )
    assert [own.reduction for own in adoption.features.values()] == [2, 2, 2, 2, 4, 4, 4, 8, 8, 8]


def test_costs_are_those_of_the_truncated_backbone():
    model = own_models.DeepHeads()
    adoption = adopt(model, [torch.zeros(IMAGES)])
    for layer in adoption.layers:
        if layer.kind != "conv":
            network = whole(adoption, {"parts": layer.name, "depth": layer.name})
            assert sum(own.numel() for own in network.backbone.parameters()) == layer.params, layer.name
    deepest = [layer for layer in adoption.layers if layer.kind == "block"][-1]
    area = IMAGES[2] * IMAGES[3]
    stem = 8 * 27 * area // 4
    first = 4 * 8 * 8 * 9 * area // 4
    second = (16 * 8 * 9 + 16 * 8 + 3 * 16 * 16 * 9) * area // 16
    third = (32 * 16 * 9 + 32 * 16 + 3 * 32 * 32 * 9) * area // 64
    assert deepest.macs == stem + first + second + third


def test_features_flow_around_the_convolutions_of_residual_blocks():
    adoption = adopt(own_models.DeepHeads(), [torch.zeros(IMAGES)])
    around = {layer.name: layer.is_bypassable for layer in adoption.layers if layer.kind == "conv"}
    assert not around["encoder.stem.0"]
    assert around["encoder.layer1.0.conv1"] and around["encoder.layer1.0.conv2"]
    assert around["encoder.layer2.0.conv1"] and around["encoder.layer2.0.downsample.0"]


def test_a_decoder_keeps_what_lies_before_its_layer_and_the_rest_is_adapted():
    model = own_models.TwoUNets().eval()
    adoption = adopt(model, [torch.zeros(IMAGES)], outputs={"parts": "0", "depth": "1"})
    network = whole(adoption, {"depth": "encoder.layer2.0", "parts": "encoder.layer2.1"}).eval()
    assert network.decoders["depth"].reads == {
        "encoder.stem": "encoder.stem",
        "encoder.layer1.1": "encoder.layer1.1",
        "encoder.layer2.1": "encoder.layer2.0",
        "encoder.layer3.1": "encoder.layer2.0",
    }
    assert list(network.decoders["depth"].adapters) == ["2", "3"]
    assert list(network.decoders["parts"].adapters) == ["3"]
    names = {
        name.split(".")[2] for name, _ in network.named_parameters() if name.startswith("backbone.encoder.")
    }
    assert "layer3" not in names
    found = network(torch.randn(IMAGES))
    assert found["parts"].shape == (2, 5, *IMAGES[2:]) and found["depth"].shape == (2, 1, *IMAGES[2:])
    sum(own.square().mean() for own in found.values()).backward()
    assert all(own.grad is not None for own in network.parameters())


def test_a_shared_decoder_is_read_on_the_way_down_too():
    adoption = adopt(own_models.SharedUNet(), [torch.zeros(IMAGES)])
    assert "decoder.ups.0" in adoption.features
    network = whole(adoption, {"parts": "decoder.ups.0", "depth": "encoder.layer1.1"}).eval()
    assert network(torch.randn(IMAGES))["parts"].shape == (2, 5, *IMAGES[2:])


def test_a_module_that_looks_at_values_is_kept_whole_and_said():
    adoption = adopt(own_models.ValueDependent(), [torch.zeros(IMAGES)])
    assert list(adoption.closed) == ["encoder.layer2"]
    assert "encoder.layer2" in adoption.features and "encoder.layer2.first" not in adoption.features


def test_a_head_reads_only_what_it_uses_of_a_list():
    adoption = adopt(own_models.PickyHeads(), [torch.zeros(IMAGES)])
    assert adoption.read("parts") == adoption.read("depth") == ("encoder.layer2.1",)
    names = {name.split(".")[2] for name, _ in whole(adoption).named_parameters() if "encoder" in name}
    assert "layer3" not in names


def test_a_subset_of_the_tasks_keeps_only_their_decoders():
    adoption = adopt(own_models.DeepHeads(), [torch.zeros(IMAGES)])
    network = AdoptedSpec("none:none", {"depth": True}, IMAGES[2:]).cut(adoption)
    assert isinstance(network, AdoptedModel)
    assert list(network(torch.randn(IMAGES))) == ["depth"]
    assert {network.component_of(name) for name, _ in network.named_parameters()} == {"backbone", "depth"}


def test_one_tensor_is_the_only_task():
    class One(own_models.DeepHeads):
        def forward(self, images):
            return super().forward(images)["depth"]

    adoption = adopt(One(), [torch.zeros(IMAGES)], lone="depth", backbone=["encoder"])
    assert adoption.tasks == ("depth",)


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        (
            {"outputs": {"parts": "0", "depth": "2"}},
            AdoptionError,
            r"`depth` \(at `2`\), but it returns `0`, `1`",
        ),
        (
            {"outputs": {"parts": "0", "depth": "0"}},
            AdoptionError,
            "a prediction of its own, but parts and depth",
        ),
        ({"backbone": ["encodr"]}, UnknownNameError, "did you mean `encoder`"),
        ({"backbone": ["encoder", "encoder.layer1"]}, AdoptionError, "`encoder.layer1` is part of `encoder`"),
        ({"backbone": ["encoder", "encoder"]}, AdoptionError, "named once"),
        ({"backbone": ["encoder.layer1"]}, AdoptionError, r"parts share `encoder.layer2.0` as well"),
        ({"backbone": ["encoder", "up_parts", "parts"]}, AdoptionError, "made inside it"),
        ({"decoders": {"parts": ["parts"]}}, AdoptionError, r"it also runs `up_parts.ups.0`"),
        ({"decoders": {"parts": ["up_part"]}}, UnknownNameError, "module of decoder `parts` `up_part`"),
        ({"decoders": {"part": ["up_parts"]}}, UnknownNameError, "task of `decoders` `part`"),
        ({"decoders": {"parts": ["encoder.layer1"]}}, AdoptionError, "lie outside the backbone"),
    ],
)
def test_what_does_not_fit_is_named(given, error, text):
    settings = {"outputs": {"parts": "0", "depth": "1"}, **given}
    with pytest.raises(error, match=text):
        adopt(own_models.TwoUNets(), [torch.zeros(IMAGES)], **settings)


def test_models_that_cannot_be_cut_say_why():
    with pytest.raises(AdoptionError, match="no two of them do"):
        adopt(own_models.Separate(), [torch.zeros(IMAGES)])
    with pytest.raises(UnsupportedLayerError, match=r"NoTensor cannot be cut: .*lomt prune"):
        adopt(own_models.NoTensor(), [torch.zeros(IMAGES)], backbone=["encoder"])
    with pytest.raises(AdoptionError, match=r"to take 1 input, .* takes 2 \(images, prior\)"):
        adopt(own_models.TwoInputs(), [torch.zeros(IMAGES)])
    with pytest.raises(AdoptionError, match="two tasks or more"):
        adopt(own_models.NoTensor().encoder, [torch.zeros(IMAGES)], outputs={"deep": "3"})


def test_predictions_of_another_form_are_refused():
    adoption = adopt(own_models.DeepHeads(), [torch.zeros(IMAGES)])
    adoption.check_predictions({"parts": (5, True), "depth": (1, True)})
    with pytest.raises(AdoptionError, match=r"`parts` to have the shape \(batch, 13, height, width\)"):
        adoption.check_predictions({"parts": (13, True)})


def test_a_number_of_images_that_is_kept_is_refused():
    class Kept(own_models.DeepHeads):
        def __init__(self):
            super().__init__()
            self.encoder.layer2.add_module("fixed", Fixed())

    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = own_models.Block(16, 16)
            self.other = own_models.Block(16, 16)

        def forward(self, x):
            return self.other(self.conv(x).reshape(int(x.shape[0]), 16, *x.shape[2:]))

    adoption = adopt(Kept(), [torch.zeros(IMAGES)])
    with pytest.raises(UnsupportedLayerError, match="to take any number of images, but its forward keeps"):
        _ = adoption.layers
