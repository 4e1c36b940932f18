import pytest
import torch

from lomt.branching import copy_matching_weights, rewire
from lomt.errors import ArtifactError, UnknownNameError
from lomt.models import AdoptedSpec, BackboneSpec, DecoderSpec, ModelSpec


def spec(**branch_points):
    return ModelSpec(
        BackboneSpec("test_resnet", 8),
        {"depth": DecoderSpec("linear"), "edges": DecoderSpec("linear")},
        {"depth": 1, "edges": 1},
        {"depth": True, "edges": True},
        branch_points,
    )


@pytest.mark.parametrize("training", [True, False])
def test_rewired_at_the_last_layer_is_the_original_bit_for_bit(training):
    torch.manual_seed(0)
    original = spec().build().train(training)
    rewired = rewire(original.spec, original.branch_points).build().train(training)
    assert copy_matching_weights(original, rewired) == ()
    images = torch.rand(2, 3, 32, 48)

    expected, found = original(images), rewired(images)

    assert all(torch.equal(expected[task], found[task]) for task in ("depth", "edges"))


def test_backbone_ends_after_the_deepest_branch_point():
    shallow = rewire(spec(), {"depth": "layer2.0", "edges": "layer1.0"}).build()

    assert not any("layer3" in name for name, _ in shallow.named_parameters())
    assert shallow.branch_points == {"depth": "layer2.0", "edges": "layer1.0"}


def test_inputs_are_named_only_of_decoders_that_read_several():
    with pytest.raises(ArtifactError, match="one layer for task `depth`, because decoders"):
        rewire(spec(), {"depth": {"layer4.0": "layer2.0"}, "edges": "layer1.0"})

    adopted = AdoptedSpec("mine:Net", {"depth": True, "edges": True}, (32, 48))
    moved = rewire(adopted, {"depth": {"up.4": "up.2"}, "edges": "up.1"})
    assert (moved.branch_points, moved.reads) == ({"edges": "up.1"}, {"depth": {"up.4": "up.2"}})
    back = rewire(moved, {"depth": "up.3"})
    assert (back.branch_points, back.reads) == ({"edges": "up.1", "depth": "up.3"}, {})


def test_weights_that_do_not_fit_are_named_and_left():
    torch.manual_seed(0)
    original = spec().build()
    shallow = rewire(spec(), {"depth": "layer1.0"}).build()
    before = {n: v.clone() for n, v in shallow.decoders["depth"].state_dict().items()}

    left = copy_matching_weights(original, shallow)

    assert any(name.startswith("decoders.depth") for name in left)
    assert not any(name.startswith("decoders.edges") for name in left)
    for name, value in original.backbone.state_dict().items():
        assert torch.equal(shallow.backbone.state_dict()[name], value)
    for name in left:
        kept = before[name.removeprefix("decoders.depth.")]
        assert torch.equal(shallow.state_dict()[name], kept)


def test_unknown_task_is_named():
    with pytest.raises(UnknownNameError, match="Unknown task `depht`, did you mean `depth`"):
        rewire(spec(), {"depht": "layer1.0"})
