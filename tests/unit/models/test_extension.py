"""Networks to which tasks are added."""

import json

import pytest
import torch

from lomt.errors import UnknownNameError, UnsupportedLayerError
from lomt.models import (
    BackboneSpec,
    DecoderSpec,
    ModelSpec,
    NewTask,
    choose_path,
    extend,
    load_model,
    new_task_network,
    save_model,
)
from lomt.models.task_paths import own_name
from lomt.structure import trace_structure

SPEC = ModelSpec(
    backbone=BackboneSpec("test_resnet"),
    decoders={"depth": DecoderSpec("linear"), "scene": DecoderSpec("classifier")},
    out_channels={"depth": 1, "scene": 3},
    dense={"depth": True, "scene": False},
    branch_points={"depth": "layer3.0", "scene": "layer2.0"},
)
EDGES = NewTask("edges", "layer3.0", DecoderSpec("linear"), 1, True)
PARTS = NewTask("parts", "layer2.0", DecoderSpec("linear"), 4, True)
IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return SPEC.build().eval()


def added(network, task, layers):
    """The network with a task whose own layers have other weights, and the network of that task alone."""
    torch.manual_seed(1)
    alone = new_task_network(network, task).eval()
    weights = {}
    with torch.no_grad():
        for layer in layers:
            for name, value in alone.backbone.get_submodule(layer).state_dict().items():
                if value.is_floating_point():
                    value.mul_(1.5)
                weights[f"{layer}.{name}"] = value.clone()
    return extend(network, task, alone.decoders[task.name], weights, layers), alone


@pytest.fixture(scope="module")
def extended(network):
    return added(network, EDGES, ("layer2.0.conv2", "layer2.0.bn2"))[0]


def test_old_tasks_answer_bit_for_bit_and_the_new_one_as_it_was_trained(network):
    extended, alone = added(network, EDGES, ("layer2.0.conv2", "layer2.0.bn2"))
    before, after = network(IMAGES), extended(IMAGES)

    assert list(after) == ["depth", "scene", "edges"]
    assert all(torch.equal(before[task], after[task]) for task in before)
    assert torch.equal(after["edges"], alone(IMAGES)["edges"])
    assert extended.branch_points == {"depth": "layer3.0", "scene": "layer2.0", "edges": "layer3.0"}
    assert not extended.training
    assert extended.component_of(f"backbone.{own_name('edges', 'layer2.0.conv2')}.weight") == "edges"
    assert extended.component_of("backbone.layer2.0.conv2.weight") == "backbone"


def test_a_task_without_layers_of_its_own_costs_its_decoder(network):
    extended, alone = added(network, EDGES, ())

    more = extended.state_dict().keys() - network.state_dict().keys()
    assert more == {"decoders.edges.head.weight", "decoders.edges.head.bias"}
    assert torch.equal(extended(IMAGES)["edges"], alone(IMAGES)["edges"])
    assert "task_layers" not in extended.spec.to_dict()


def test_a_second_task_leaves_the_first_and_all_of_it_is_saved(network, extended, tmp_path):
    twice, alone = added(extended, PARTS, ("conv1.3", "layer2.0.conv2"))
    before, after = extended(IMAGES), twice(IMAGES)
    loaded = load_model(save_model(twice, tmp_path / "saved"))

    assert all(torch.equal(before[task], after[task]) for task in before)
    assert torch.equal(after["parts"], alone(IMAGES)["parts"])
    assert loaded.spec == twice.spec
    assert ModelSpec.from_dict(json.loads(json.dumps(twice.spec.to_dict()))) == twice.spec
    assert all(torch.equal(value, after[task]) for task, value in loaded(IMAGES).items())


def test_the_structure_is_followed_and_what_both_paths_use_hangs_together(extended):
    structure = trace_structure(extended, IMAGES[:1])
    together = [{place.tensor for place in own.slices} for own in structure.coupled]

    # The layer's input feeds both versions of it: its channels go from both or from none.
    mine = f"backbone.{own_name('edges', 'layer2.0.conv2')}.weight"
    readers = [names for names in together if mine in names and "backbone.layer2.0.conv1.weight" in names]
    assert len(readers) == 1
    assert "backbone.layer2.0.conv2.weight" in readers[0]
    # What the two versions put out is read by one and the same layer.
    writers = [names for names in together if mine in names and names not in readers]
    assert all("backbone.layer2.0.conv2.weight" in names for names in writers)


def test_choices_are_the_layers_up_to_the_branch_point():
    path = choose_path(SPEC, None)
    assert path.branch_point == "layer3.0"
    assert path.layers[0].name == "conv1.0"
    assert all(not layer.name.startswith("layer4") for layer in path.layers)
    assert choose_path(SPEC, "layer1.0").branch_point == "layer1.0"
    with pytest.raises(UnknownNameError, match=r"Unknown branch point `layer4.0`.*Known are .*layer3.0"):
        choose_path(SPEC, "layer4.0")


def test_without_a_layer_to_change_there_is_no_path(monkeypatch):
    monkeypatch.setattr("lomt.models.extension.adaptable_layers", lambda graph, point: ((), ()))
    with pytest.raises(
        UnsupportedLayerError, match="Expected a convolution or linear layer .* up to `layer3.0`"
    ):
        choose_path(SPEC, None)


def test_own_layers_of_a_task_that_is_not_there_are_refused():
    with pytest.raises(UnknownNameError, match="Unknown task `edges`"):
        ModelSpec(SPEC.backbone, SPEC.decoders, SPEC.out_channels, SPEC.dense, {}, {"edges": ("conv1.0",)})
