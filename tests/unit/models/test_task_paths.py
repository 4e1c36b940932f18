"""Tasks with layers of their own in a backbone that others share."""

import copy
import sys

import pytest
import torch

from lomt.errors import UnknownNameError, UnsupportedLayerError
from lomt.models import BackboneSpec, create_backbone, truncate
from lomt.models.candidates import feature_graph
from lomt.models.graph import NotTraceableError
from lomt.models.task_paths import TaskPath, adaptable_layers, computed_layers, own_name

# In-place activations, in-place additions, layers before and behind them, norms with activations inside, no norms.
FAMILIES = {
    "resnet_downsample": ("test_resnet", {}, "layer3.0", ("layer3.0.downsample.1",), "layer4.0"),
    "resnet_last_convolution": (
        "test_resnet",
        {},
        "layer2.0",
        ("layer2.0.conv2", "layer2.0.bn2"),
        "layer2.0",
    ),
    "efficientnet": (
        "test_efficientnet",
        {},
        "blocks.2",
        ("blocks.1.0.conv_pwl", "blocks.1.0.bn2"),
        "blocks.3",
    ),
    "convnext": ("test_convnext", {}, "stages.1", ("stages.0.blocks.0.mlp.fc1",), "stages.1"),
    "vgg_in_place": ("vgg11", {"mlp_ratio": 1 / 64}, "features.8", ("features.3",), "features.11"),
}


@pytest.fixture(params=FAMILIES, ids=FAMILIES)
def family(request):
    name, options, point, layers, deepest = FAMILIES[request.param]
    torch.manual_seed(0)
    return create_backbone(BackboneSpec(name, options=options)), TaskPath("edges", point, layers), deepest


def perturbed(whole, layers):
    """The whole model with other weights in some layers."""
    changed = copy.deepcopy(whole)
    torch.manual_seed(5)
    with torch.no_grad():
        for layer in layers:
            for parameter in changed.get_submodule(layer).parameters():
                parameter.add_(0.3 * torch.randn_like(parameter) * parameter.std(correction=0).clamp(min=0.1))
    return changed


def give(backbone, path, changed):
    """Copy the changed layers into the task's own ones."""
    for layer in path.layers:
        backbone.get_submodule(own_name(path.task, layer)).load_state_dict(
            changed.get_submodule(layer).state_dict()
        )


def test_a_path_computes_what_a_backbone_with_its_weights_does_and_the_others_what_they_did(family):
    whole, path, deepest = family
    changed = perturbed(whole, path.layers)
    shared = truncate(whole, dict.fromkeys([path.branch_point, deepest]))
    alone = truncate(changed, [path.branch_point])
    merged = truncate(whole, [deepest], [path])
    more = merged.state_dict().keys() - shared.state_dict().keys()
    give(merged, path, changed)
    images = torch.randn(2, 3, 32, 32)
    for training in (False, True):  # training moves statistics that both paths share
        found = merged.train(training)(images.clone())
        before = shared.train(training)(images.clone())
        own = alone.train(training)(images.clone())[path.branch_point]

        assert list(found) == [deepest, path.feature]
        assert torch.equal(found[deepest], before[deepest])
        assert torch.equal(found[path.feature], own)
        assert not torch.equal(own, before[path.branch_point])

    assert more == {
        own_name("edges", f"{n}.{key}") for n in path.layers for key in whole.get_submodule(n).state_dict()
    }
    assert merged.channels[path.feature] == alone.channels[path.branch_point]


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    return create_backbone(BackboneSpec("test_resnet")).eval()


def test_what_comes_before_the_first_own_layer_is_computed_once(resnet):
    path = TaskPath("edges", "layer3.0", ("layer2.0.conv2", "layer2.0.bn2"))
    merged = truncate(resnet, ["layer3.0"], [path])
    own = own_name("edges", "layer2.0.conv2")
    names = (
        "conv1.0",
        "layer1.0.conv2",
        "layer2.0.conv1",
        "layer2.0.conv2",
        own,
        "layer3.0.conv1",
        "layer3.0.bn2",
    )
    calls = dict.fromkeys(names, 0)
    for name in calls:

        def count(*_, name=name):
            calls[name] += 1

        merged.get_submodule(name).register_forward_hook(count)
    merged(torch.randn(1, 3, 64, 64))

    assert list(calls.values()) == [1, 1, 1, 1, 1, 2, 2]


def test_copies_of_the_module_share_nothing_and_own_layers_train(resnet):
    path = TaskPath("edges", "layer2.0", ("conv1.3",))
    merged = copy.deepcopy(truncate(resnet, ["layer2.0"], [path]))
    merged(torch.randn(2, 3, 64, 64))[path.feature].square().sum().backward()

    own = merged.get_submodule(own_name("edges", "conv1.3")).weight
    assert own.grad.abs().sum() > 0
    assert merged.get_submodule("conv1.3").weight.grad is None


def test_layers_to_choose_from_are_those_up_to_the_branch_point_with_their_norms(resnet):
    graph = feature_graph(resnet)
    layers, others = adaptable_layers(graph, "layer2.0")

    assert {layer.name: layer.norm for layer in layers} == {
        "conv1.0": "conv1.1",
        "conv1.3": "conv1.4",
        "conv1.6": "bn1",
        **{f"layer{stage}.0.conv{n}": f"layer{stage}.0.bn{n}" for stage in (1, 2) for n in (1, 2)},
        "layer2.0.downsample.1": "layer2.0.downsample.2",
    }
    assert others == ()
    raw, _ = adaptable_layers(graph, "layer1.0.conv1")
    assert (raw[-1].name, raw[-1].norm) == ("layer1.0.conv1", None)
    known = computed_layers(graph, ["layer2.0"])
    assert known[-1] == "layer2"
    assert "layer1.0" in known
    assert "layer3.0" not in known


def test_norms_before_a_layer_are_no_part_of_it():
    layers, others = adaptable_layers(
        feature_graph(create_backbone(BackboneSpec("test_convnext"))), "stages.0"
    )

    norms = {layer.name: layer.norm for layer in layers}
    assert norms["stem.0"] == "stem.1"
    assert norms["stages.0.blocks.0.conv_dw"] is None, "it reads the permuted features"
    assert norms["stages.0.blocks.0.mlp.fc1"] is None
    assert set(others).isdisjoint({*norms, *norms.values()})


@pytest.mark.parametrize("layer", ["layer3.0.conv1", "layer1.0.conv9"])
def test_own_layers_have_to_be_on_the_path(resnet, layer):
    with pytest.raises(UnknownNameError, match=f"Unknown layer before `layer2.0` `{layer}`.*Known are"):
        truncate(resnet, ["layer3.0"], [TaskPath("edges", "layer2.0", (layer,))])


def test_a_backbone_that_cannot_be_traced_has_no_paths(resnet, monkeypatch):
    def refuse(backbone):
        raise NotTraceableError("it counts its inputs")

    monkeypatch.setattr(sys.modules["lomt.models.truncate"], "feature_graph", refuse)
    with pytest.raises(
        UnsupportedLayerError, match=r"Expected a backbone that torch.fx can cut.*it counts its inputs"
    ):
        truncate(resnet, ["layer3.0"], [TaskPath("edges", "layer2.0", ("conv1.0",))])
