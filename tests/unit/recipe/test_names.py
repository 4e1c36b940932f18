"""Names that only the libraries know."""

import pytest
import torch

from lomt.recipe import load_recipe, parse_recipe


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (
            ["tasks.edges.loss=hubr"],
            "`tasks.edges.loss`: unknown loss `hubr`, did you mean `huber`? "
            "Known for edges are balanced_bce, huber.",
        ),
        (
            ["tasks.edges={kind: edges, loss: huber, loss_options: {dleta: 0.3}}"],
            "`tasks.edges.loss_options`: unknown option of the huber loss `dleta`, did you mean `delta`?",
        ),
        (
            ["tasks.edges={kind: edges, loss: huber, loss_options: {delta: -1.0}}"],
            "`tasks.edges.loss_options`: expected `delta` of task `edges` to be above 0, but got -1.0.",
        ),
        (
            ["tasks.edges={kind: edges, loss: huber, loss_options: {delta: x}}"],
            "`tasks.edges.loss_options`: ",
        ),
        (
            ["tasks.items={kind: depth, target: depth}"],
            "`tasks.items`: `items` has a meaning of its own in torch; choose another task name.",
        ),
        (
            ["tasks.depht={kind: depth}"],
            "`tasks.depht.target`: rooms have no target `depht`, did you mean `depth`? "
            "They have segmentation, depth, normals, edges, scene.",
        ),
        (
            ["tasks.far={kind: edges, target: depth}"],
            "`tasks.far.kind`: expected depth, the kind of target `depth`, but got edges.",
        ),
        (
            ["model.backbone.name=resnet_18"],
            "`model.backbone.name`: unknown backbone `resnet_18`. Near are resnet18,",
        ),
        (
            ["model.backbone.name='?'"],
            "`model.backbone.name`: unknown backbone `?`. Names are those of timm.",
        ),
        (
            ["model.backbone.options={stem_wdth: 64}"],
            "`model.backbone`: expected `options` and `output_stride` of backbone `resnet18` to be ones that",
        ),
        (
            ["rewire.branch_points={depth: layer2.2, edges: layer1.0}"],
            "`rewire.branch_points.depth`: unknown layer `layer2.2`, did you mean `layer2.1`?",
        ),
        (
            ["rewire.branch_points={depth: '??', edges: layer1.0}"],
            "`rewire.branch_points.depth`: unknown layer `??`. Known are ",
        ),
    ],
)
def test_unknown_names(problems_of, overrides, problem):
    found = problems_of(*overrides, check_names=True)
    assert len(found) == 1
    assert found[0].startswith(problem)


def test_an_original_answers_for_what_rooms_lack(problems_of):
    own = "model={factory: 'tests.reference.own_models:TwoUNets', trained: true}"
    taught = ("data.targets=original", own, "tasks.shade={kind: depth}")
    assert problems_of(*taught, check_names=True) == []
    (problem,) = problems_of(*taught, "tasks.far={kind: depth, target: dept}", check_names=True)
    assert problem.startswith("`tasks.far.target`: rooms have no target `dept`, did you mean `depth`?")


def test_many_layers_are_not_all_listed(problems_of):
    (problem,) = problems_of("rewire.branch_points={depth: '??', edges: layer1.0}", check_names=True)
    assert problem.endswith(" more.")
    assert problem.count(",") == 19


def test_layers_of_every_granularity_are_known(problems_of):
    points = "rewire.branch_points={depth: layer2, edges: layer1.0.conv2}"
    assert problems_of(points, check_names=True) == []


def test_names_are_checked_beside_wrong_values(problems_of):
    found = problems_of(
        "train.epochs=0", "model.backbone.name=zzzzz", "tasks.edges.kind=egdes", check_names=True
    )
    assert [problem.partition(":")[0] for problem in found] == [
        "`model.backbone.name`",
        "`tasks.edges.kind`",
        "`train.epochs`",
    ]


def test_unreadable_size_and_name_are_passed_over(problems_of):
    found = problems_of(
        "data.size=0", "rewire.branch_points={depth: x, edges: y}", "model.backbone.name=3", check_names=True
    )
    assert found == [
        "`data.size`: expected a list, but got 0.",
        "`model.backbone.name`: expected text, but got 3.",
    ]


def test_a_size_that_the_backbone_does_not_take_is_reported(problems_of):
    (problem,) = problems_of(
        "model.backbone.name=vit_tiny_patch16_224",
        "rewire.branch_points={depth: blocks.3, edges: blocks.2}",
        check_names=True,
    )
    assert problem.startswith("`rewire.branch_points`: the layers cannot be listed: ")


def test_any_failure_of_a_constructor_is_a_problem(problems_of, monkeypatch):
    def explode(*args):
        raise RuntimeError("no\nway")

    monkeypatch.setattr("lomt.models.create_backbone", explode)
    assert problems_of(check_names=True) == [
        "`model.backbone`: `resnet18` cannot be built so: RuntimeError: no way."
    ]


def test_checking_allocates_no_weights(base, monkeypatch):
    devices = []

    def remember(backbone, size, granularity):
        devices.extend(parameter.device.type for parameter in backbone.parameters())
        return []

    monkeypatch.setattr("lomt.models.list_layers", remember)
    base["rewire"] = {"branch_points": {"depth": "layer2", "edges": "layer1"}}
    with pytest.raises(Exception, match="unknown layer"):
        parse_recipe(base)
    assert set(devices) == {"meta"}
    assert torch.empty(()).device.type == "cpu"


def test_shipped_names_are_right():
    assert load_recipe("rooms_demo").name == "rooms_demo"
