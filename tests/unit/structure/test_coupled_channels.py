import pytest
import torch
from torch import nn

from lomt.structure import CoupledChannels, TensorSlices, all_kept, trace_structure
from tests.reference.pruning_laws import assert_counts_hold, pruned

IMAGES = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def chain():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)
    )


def slices(tensor, role, count=3):
    return TensorSlices(tensor, 0, torch.arange(count), role)


def test_layers_are_listed_once_by_role():
    own = CoupledChannels(
        "a", 3, (slices("a.weight", "producer"), slices("a.bias", "scale"), slices("b.weight", "consumer"))
    )
    assert (own.producers, own.consumers, own.is_exact) == (("a",), ("b",), True)


@pytest.mark.parametrize(
    "coupled",
    [
        CoupledChannels("a", 3, (slices("a.weight", "producer"),)),
        CoupledChannels("a", 3, (slices("b.weight", "consumer"),), mixers=("a norm",)),
    ],
    ids=["nobody reads it", "mixed"],
)
def test_removal_is_not_exact_without_readers_or_behind_what_mixes(coupled):
    assert not coupled.is_exact


def test_the_layer_of_a_tensor_of_the_network_itself_is_empty():
    assert slices("position", "scale").layer == ""


def test_masks_become_positions():
    structure = trace_structure(chain(), IMAGES)
    resolved = structure.resolve({"0": torch.tensor([True, False, True, False, True, True])})
    found = {
        name: {dim: kept.tolist() for dim, kept in dims.items()} for name, dims in resolved.tensors.items()
    }
    kept = [0, 2, 4, 5]
    assert found == {
        "0.weight": {0: kept},
        **{f"1.{name}": {0: kept} for name in ("weight", "bias", "running_mean", "running_var")},
        "2.weight": {1: kept},
    }
    assert resolved.attributes == ()


def test_counts_follow_the_masks():
    structure = trace_structure(chain(), IMAGES)
    assert structure.params() == 6 * 27 + 12 + 28 + 10
    assert structure.macs() == 4 * (6 * 27 + 24 + 8)
    keep = {"0": torch.arange(6) < 2, "2": torch.arange(4) < 1}
    assert structure.params(keep) == 2 * 27 + 4 + 3 + 4
    assert structure.layer_macs(keep) == {"0": 4 * 54, "2": 4 * 2, "4": 4 * 2}
    assert_counts_hold(pruned(chain(), structure, keep), IMAGES, structure, keep)


def test_protected_channels_stay_whatever_the_masks_say():
    structure = trace_structure(chain(), IMAGES, protect=["0"])
    keep = {own.name: torch.arange(own.count) < 1 for own in structure.coupled}
    assert set(structure.resolve(keep).tensors) == {"2.weight", "2.bias", "4.weight"}
    assert structure.params(keep) == structure.params({"2": keep["2"]})
    assert structure.macs(keep) == structure.macs({"2": keep["2"]})


def test_further_protection_keeps_the_first_reason():
    structure = trace_structure(chain(), IMAGES, protect=["0"]).protecting({"0": "late", "2": "it breaks"})
    assert structure.by_name["0"].protected == "protected as `0`"
    assert structure.by_name["2"].protected == "it breaks"
    assert structure.prunable == ()


def test_keeping_all_is_a_mask_of_ones_for_each():
    structure = trace_structure(chain(), IMAGES)
    masks = all_kept(structure.prunable)
    assert {name: mask.tolist() for name, mask in masks.items()} == {"0": [True] * 6, "2": [True] * 4}
    assert structure.resolve(masks).tensors == {}
    assert structure.params(masks) == structure.params()
