import json
import math

import pytest

from lomt.errors import ArtifactError
from lomt.pruning.plan import AttributeChange, ComponentChange, PruningPlan, Replacement, Step

PLAN = PruningPlan(
    keep={"conv1": (0, 1, 2, 5), "layer1.conv1": (3,)},
    tensors={
        "conv1.weight": {0: (0, 1, 2, 5)},
        "bn1.weight": {0: (0, 1, 2, 5)},
        "layer1.conv1.weight": {0: (3,), 1: (0, 1, 2, 5)},
    },
    attributes=(AttributeChange("bn1", "num_features", None, 4), AttributeChange("", "sizes", 1, 4)),
    replaced=(Replacement("layer1.1", "constant", {"channels": 4}),),
    protected={"head": "it is the output `depth`", "odd": "reshape mixes its channels"},
    counts={"conv1": 8, "layer1.conv1": 4, "layer1.conv2": 8, "head": 3, "odd": 2},
    params_before=1000,
    params_after=400,
    macs_before=20000,
    macs_after=5000,
    steps=(
        Step("exact", "removal of what nobody reads", {"depth": 0.0}, {"conv1": 1, "layer1.conv1": 3}),
        Step("lossy", "magnitude to 40 % of the parameters", {"depth": 0.125}, {"conv1": 3}),
    ),
    components=(
        ComponentChange("shared", (12, 5), (700, 300), (15000, 4000)),
        ComponentChange("unused", (0, 0), (300, 0), (0, 0)),
    ),
)
EMPTY = PruningPlan({}, {}, (), (), {}, {}, 10, 10, 20, 20)


@pytest.mark.parametrize("plan", [PLAN, EMPTY], ids=["full", "empty"])
def test_reading_what_was_written(plan):
    assert PruningPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


def test_values_that_are_not_finite_survive():
    plan = PruningPlan({}, {}, (), (), {}, {}, 1, 1, 1, 1, (Step("lossy", "cut", {"a": math.inf}),))

    assert PruningPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


def test_the_file_is_small_and_readable():
    values = PLAN.to_dict()

    assert values["schema"] == 1
    assert values["keep"] == {"conv1": "0-2,5", "layer1.conv1": "3"}
    assert values["slices"] == [
        {"kept": "0-2,5", "of": ["conv1.weight:0", "bn1.weight:0", "layer1.conv1.weight:1"]},
        {"kept": "3", "of": ["layer1.conv1.weight:0"]},
    ]


def test_table():
    assert str(PLAN).splitlines() == [
        "part    channels                  params                       MACs",
        "shared   12 -> 5  (41.7 %)    700 -> 300  (42.9 %)  15,000 -> 4,000  (26.7 %)",
        "unused    0 -> 0                300 -> 0   (0.0 %)           0 -> 0",
        "all     20 -> 13  (65.0 %)  1,000 -> 400  (40.0 %)  20,000 -> 5,000  (25.0 %)",
        "Removed as a whole: layer1.1 (constant)",
        "Exact: removal of what nobody reads; relative change of outputs: depth 0",
        "Lossy: magnitude to 40 % of the parameters; relative change of outputs: depth 0.12",
        "Protected: 2 coupled channels: 1 it is the output `depth`; 1 reshape mixes its channels",
    ]


def test_table_of_nothing():
    assert str(EMPTY).splitlines()[-1] == "Nothing to remove."
    assert EMPTY.is_empty
    assert not PLAN.is_empty


def test_the_table_does_not_grow_with_the_number_of_layers():
    many = {f"layer{i}": f"reason {i}" for i in range(100)}
    replaced = tuple(Replacement(f"block{i}", "identity") for i in range(100))
    plan = PruningPlan({}, {}, (), replaced, many, dict.fromkeys(many, 4), 1, 1, 1, 1)

    text = str(plan)

    assert len(text.splitlines()) == 4
    assert "and 92 more" in text


def test_explanation():
    assert PLAN.explain().splitlines() == [
        "conv1: 4 of 8 kept: 1 by removal of what nobody reads (exact), "
        "3 by magnitude to 40 % of the parameters (lossy)",
        "layer1.conv1: 1 of 4 kept: 3 by removal of what nobody reads (exact)",
        "layer1.conv2: 8 of 8 kept: all are needed",
        "head: 3 of 3 kept: protected, it is the output `depth`",
        "odd: 2 of 2 kept: protected, reshape mixes its channels",
        "layer1.1: removed as a whole (constant)",
    ]


def _without(key):
    return lambda values: values.pop(key)


def _with(key, value):
    return lambda values: values.__setitem__(key, value)


def _in(*path, **changes):
    def change(values):
        for key in path:
            values = values[key]
        values.update(changes)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_with("schema", 2), "Expected a pruning plan of schema 1, but got 2. Read it with the version"),
        (_without("schema"), "Expected `plan` to have the keys schema, params_before, "),
        (_without("keep"), "Expected `plan` to have the keys "),
        (_with("extra", 1), "components, counts, protected, keep, replaced, attributes, slices, extra."),
        (
            _with("params_after", 3.5),
            "Expected `plan.params_after` to be an integer of at least 0, but got 3.5.",
        ),
        (_with("params_after", True), "Expected `plan.params_after` to be an integer of at least 0"),
        (_with("macs_after", -1), "Expected `plan.macs_after` to be an integer of at least 0, but got -1."),
        (_with("counts", [1]), "Expected `plan.counts` to have keys, but got [1]."),
        (_with("steps", {}), "Expected `plan.steps` to be a list, but got {}."),
        (_in("steps", 0, kind="maybe"), "Expected `plan.steps[0].kind` to be exact or lossy, but got maybe."),
        (_in("steps", 0, what=3), "Expected `plan.steps[0].what` to be a text, but got 3."),
        (
            _in("steps", 1, "output_change", depth="x"),
            "Expected `plan.steps[1].output_change.depth` to be a number of at least 0, but got x.",
        ),
        (_in("components", 0, params=[1]), "Expected `plan.components[0].params` to be two numbers"),
        (_in("protected", head=1), "Expected `plan.protected.head` to be a text, but got 1."),
        (
            _in("keep", conv1="0-8"),
            "Expected `plan.keep.conv1` to keep some of 8 channels, but got channel 8.",
        ),
        (_in("keep", new="0"), "Expected `plan.keep.new` to be among `plan.counts`"),
        (
            _in("keep", conv1="2,1"),
            "In the pruning plan, at `plan.keep.conv1`: Expected increasing positions",
        ),
        (_in("keep", conv1=[0, 1]), "Expected `plan.keep.conv1` to be a text, but got [0, 1]."),
        (_in("replaced", 0, path="x"), "Expected `plan.replaced[0]` to have the keys module, kind, options"),
        (
            _in("attributes", 0, value=1.0),
            "Expected `plan.attributes[0].value` to be an integer, but got 1.0.",
        ),
        (
            _in("attributes", 0, index=-1),
            "Expected `plan.attributes[0].index` to be an integer of at least 0",
        ),
        (
            _in("attributes", 0, attribute="__class__"),
            "Expected `plan.attributes[0].attribute` to be the name of an attribute, but got __class__.",
        ),
        (_in("attributes", 0, attribute="a.b"), "to be the name of an attribute, but got a.b."),
        (
            _in("slices", 0, of=["conv1.weight"]),
            "Expected `plan.slices[0].of` to be tensors with a dimension",
        ),
        (_in("slices", 1, of=["bn1.weight:0"]), "Expected `plan.slices[1].of` to name each slice once"),
    ],
)
def test_what_is_no_plan(change, message):
    values = json.loads(json.dumps(PLAN.to_dict()))
    change(values)

    with pytest.raises(ArtifactError) as caught:
        PruningPlan.from_dict(values)

    assert message in str(caught.value)


@pytest.mark.parametrize("values", [None, [], "plan", 3])
def test_other_things_are_no_plan(values):
    with pytest.raises(ArtifactError, match="Expected `plan` to have the keys schema"):
        PruningPlan.from_dict(values)
