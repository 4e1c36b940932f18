import json

import pytest
import torch
from torch import nn

from lomt.sparsity import LayerSparsity, PartSparsity, SparsityReport, measure_sparsity
from lomt.structure import channel_groups


class TwoPart(nn.Module):
    """A backbone with half of 4 groups zero and a decoder with 1 of 2."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Conv2d(4, 2, 3)
        self.decoders = nn.ModuleDict({"depth": nn.Conv2d(2, 1, 1)})
        with torch.no_grad():
            nn.init.ones_(self.backbone.weight)
            nn.init.ones_(self.decoders["depth"].weight)
            self.backbone.weight[:, 1:3] = 0
            self.decoders["depth"].weight[:, 0] = 0


def component_of(parameter_name):
    return "depth" if parameter_name.startswith("decoders.depth.") else "backbone"


REPORT = SparsityReport(
    (
        LayerSparsity("backbone", "backbone", groups=4, zero_groups=2, group_size=18),
        LayerSparsity("decoders.depth", "depth", groups=2, zero_groups=1, group_size=1),
    )
)


def test_zero_groups_are_counted_by_layer_and_part():
    assert measure_sparsity(TwoPart(), component_of=component_of) == REPORT


def test_shares_of_a_layer_of_parts_and_of_all():
    assert [layer.density for layer in REPORT.layers] == [0.5, 0.5]
    assert REPORT.components == {
        "backbone": PartSparsity("backbone", 4, 2, 72, 36),
        "depth": PartSparsity("depth", 2, 1, 2, 1),
    }
    assert REPORT.total == PartSparsity("total", 6, 3, 74, 37)
    uneven = PartSparsity("x", groups=4, zero_groups=1, weights=100, zero_weights=70)
    assert (uneven.sparsity, uneven.density, uneven.weight_sparsity) == (0.25, 0.75, 0.7)


def test_groups_of_output_channels_and_listed_groups():
    model = TwoPart()
    assert measure_sparsity(model, axis="out").total.groups == 3
    assert measure_sparsity(model, axis="out").total.zero_groups == 0
    assert measure_sparsity(channel_groups(model.backbone)).total.zero_groups == 2


def test_a_network_without_convolutions_has_no_groups():
    report = measure_sparsity(nn.Linear(2, 2))
    assert report == SparsityReport(())
    assert (report.total.sparsity, report.total.density, report.total.weight_sparsity) == (0, 1, 0)


def test_the_report_survives_json():
    values = json.loads(json.dumps(REPORT.to_dict()))
    assert SparsityReport.from_dict(values) == REPORT
    assert values["parts"][-1]["weight_sparsity"] == 0.5


@pytest.mark.parametrize("values", [{}, {"layers": [{"name": "backbone"}]}])
def test_other_values_are_refused(values):
    with pytest.raises(
        ValueError, match="^Expected a sparsity report with `layers` of name, component, groups"
    ):
        SparsityReport.from_dict(values)


def test_the_table():
    assert str(REPORT).splitlines() == [
        "layer           component  groups  zero  density",
        "backbone        backbone        4     2    50.0%",
        "decoders.depth  depth           2     1    50.0%",
        "                backbone        4     2    50.0%",
        "                depth           2     1    50.0%",
        "                total           6     3    50.0%",
    ]
