import pytest
import torch
from torch import nn

from lomt.sparsity import add_group_thresholds, add_soft_thresholds, measure_removable
from lomt.structure import trace_structure
from tests.unit.sparsity.coupled_networks import IMAGES, branched, grouped, two_tasks


def test_zero_removable_and_removed_are_told_apart_by_component():
    model = two_tasks(width=10)
    structure, _ = grouped(model)
    with torch.no_grad():
        model.backbone[3].weight[:, :4] = 0  # nobody else reads these four of the stem's channels
        model.decoders["depth"][0].weight[:, :5] = 0  # the other decoder reads them still
    dense = {"backbone": 2 * sum(p.numel() for p in model.backbone.parameters())}
    report = measure_removable(model, structure, component_of=model.component_of, dense_parameters=dense)
    backbone, depth = report["backbone"], report["depth"]

    weights = 270 + 4 * 900
    assert backbone.zero == pytest.approx(360 / weights)
    assert (backbone.channels, backbone.removable_channels) == (50, 4)
    assert backbone.removable_parameters == 4 * (27 + 2 + 90)
    assert backbone.removed == pytest.approx(0.5)
    assert depth.zero == pytest.approx(200 / 440) and depth.removable == 0 and depth.removed is None
    assert [own.name for own in report.components] == ["backbone", "depth", "segmentation"]
    assert report["segmentation"].zero == 0


def test_uncoupled_zeros_are_hardly_removable():
    model = branched()
    structure, uncoupled = grouped(model, is_coupled=False)
    torch.manual_seed(0)
    number = torch.arange(uncoupled.count)
    uncoupled.scale(((number + (number >= 6)) % 2).double())  # the stream's readers ignore different channels
    report = measure_removable(model, structure)

    assert float(uncoupled.zeros().double().mean()) == 0.5
    assert report["model"].removable_channels == 4


@pytest.mark.parametrize("kind", ["group", "soft"])
def test_weights_count_as_they_are_behind_thresholds(kind):
    model = two_tasks(width=10)
    structure, groups = grouped(model)
    if kind == "group":
        add_group_thresholds(model, groups, initial_logit=4.0)
    else:
        add_soft_thresholds(model, initial_logit=4.0)
    report = measure_removable(model, structure, component_of=model.component_of)

    # One channel always stays.
    assert report["backbone"].removable == pytest.approx(0.9)
    assert report["depth"].removable == pytest.approx(39 / 40)


def test_as_text_and_as_json():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1))
    with torch.no_grad():
        model[1].weight[:, 0] = 0
    report = measure_removable(model, trace_structure(model, IMAGES), dense_parameters={"model": 52})

    assert str(report).splitlines() == [
        "component  zero weights  removable channels  removable parameters  removed parameters",
        "model             10.0%               25.0%                 23.1%               50.0%",
    ]
    own = report.to_dict()["components"][0]
    assert (own["zero"], own["removable"], own["removed"]) == (0.1, 0.25, 0.5)
