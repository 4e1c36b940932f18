import json

import pytest
import torch
from torch import nn

from lomt.pruning.inspection import Part, component_changes, inspect_structure
from lomt.pruning.plan import ComponentChange
from lomt.structure import trace_structure


class TwoTasks(nn.Module):
    """Eight shared channels, sixteen of depth; edges reads the shared ones."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1, bias=False)
        self.body = nn.Conv2d(8, 16, 1, bias=False)
        self.depth = nn.Conv2d(16, 1, 1)
        self.edges = nn.Conv2d(8, 2, 1)
        self.spare = nn.Linear(3, 3)

    def forward(self, x):
        shared = self.stem(x).relu()
        return {"depth": self.depth(self.body(shared).relu()), "edges": self.edges(shared)}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return TwoTasks().eval()


@pytest.fixture(scope="module")
def structure(model):
    return trace_structure(model, torch.rand(1, 3, 4, 4))


def test_parts(model, structure):
    inspection = inspect_structure(structure, model)

    total = 24 + 128 + 17 + 18 + 12
    assert inspection.parts == (
        Part("shared", 24, 24 / total, 24 * 16),
        Part("depth", 145, 145 / total, (128 + 16) * 16),
        Part("edges", 18, 18 / total, 16 * 16),
        Part("unused", 12, 12 / total, 0),
    )
    assert inspection.unused_layers == ("spare",)


def test_channels(model, structure):
    channels = {own["name"]: own for own in inspect_structure(structure, model).channels}

    assert channels["stem"] == {
        "name": "stem",
        "count": 8,
        "part": "shared",
        "producers": ["stem"],
        "consumers": ["body", "edges"],
        "is_exact": True,
        "mixers": [],
        "protected": None,
    }
    assert "output `edges`" in channels["edges"]["protected"]


def test_json(model, structure):
    values = inspect_structure(structure, model).to_dict()

    assert json.loads(json.dumps(values)) == values
    assert values["parts"][0]["name"] == "shared"


def test_changes_by_part(model, structure):
    smaller = TwoTasks()
    smaller.stem, smaller.body = nn.Conv2d(3, 5, 1, bias=False), nn.Conv2d(5, 16, 1, bias=False)
    smaller.edges = nn.Conv2d(5, 2, 1)
    smaller.spare = nn.Identity()
    smaller.depth = nn.Sequential(nn.Conv2d(16, 1, 1))  # other names, the same place

    changes = component_changes(structure, model, smaller, {"stem": 5}, {"stem": 15, "body": 80, "depth": 16})

    assert changes == (
        ComponentChange("shared", (8, 5), (24, 15), (384, 15)),
        ComponentChange("depth", (16, 16), (145, 80 + 17), (2304, 96)),
        ComponentChange("edges", (0, 0), (18, 12), (256, 0)),
        ComponentChange("unused", (0, 0), (12, 0), (0, 0)),
    )
