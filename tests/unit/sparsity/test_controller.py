import copy
import json
from itertools import pairwise

import pytest
import torch
from torch.optim import SGD, AdamW

from lomt.errors import SparsityTargetError
from lomt.sparsity import (
    CoupledGroupLasso,
    SparsityController,
    add_group_thresholds,
    bake_thresholds,
    cubic_ramp,
    macs_share,
    parameters_share,
    removable_share,
)
from lomt.structure import unread
from tests.unit.sparsity.coupled_networks import branched, grouped, train, two_tasks

END = 30
METHODS = {
    "thresholds": {"per": "component"},
    "thresholds a layer": {"per": "layer"},
    "lasso": {"metric": "euclidean"},
    "lasso in adam": {"metric": "adam"},
    "both": {"per": "stage", "metric": "adam"},
}


def controlled(model, target, method, measure=None, **options):
    """Return structure, groups and a controller of one of the methods."""
    structure, groups = grouped(model, component_of=getattr(model, "component_of", None))
    how = METHODS[method]
    measures = {
        None: removable_share(groups),
        "parameters": parameters_share(groups, structure),
        "macs": macs_share(groups, structure),
    }
    controller = SparsityController(
        groups,
        target,
        measure=measures[measure],
        thresholds=add_group_thresholds(model, groups, per=how["per"]) if "per" in how else None,
        lasso=CoupledGroupLasso(groups, 0.0, metric=how["metric"]) if "metric" in how else None,
        **{"start": 5, "end": END, "every": 5, **options},
    )
    return structure, groups, controller


def removable(model, structure, groups):
    """Return the share of all groups that the structure itself finds unread in the baked network."""
    keep = unread(structure, dict(model.named_parameters()))
    return sum(int((~mask).sum()) for mask in keep.values()) / groups.count


@pytest.mark.parametrize(
    ("method", "target"),
    [*((method, 0.7) for method in METHODS), *((m, t) for m in ("thresholds", "lasso") for t in (0.5, 0.9))],
)
def test_the_target_is_reached_at_the_step_and_held(method, target):
    model = two_tasks(width=20)
    structure, groups, controller = controlled(model, target, method)
    optimizer = AdamW(model.parameters(), lr=0.01)
    controller.attach(optimizer)
    train(model, optimizer, range(END))
    assert controller.is_frozen
    assert controller.measure(controller.is_alive()) == pytest.approx(target, abs=0.01)
    pattern = controller.is_alive()
    train(model, optimizer, range(END, END + 10))
    bake_thresholds(model)

    assert torch.equal(~groups.zeros(), pattern)
    assert removable(model, structure, groups) == pytest.approx(target, abs=0.01)


@pytest.mark.parametrize("method", ["thresholds", "lasso in adam", "both"])
def test_the_curve_rises_along_the_ramp(method):
    model = two_tasks(width=20)
    _, _, controller = controlled(model, 0.8, method, start=10, end=40, every=3)
    optimizer = AdamW(model.parameters(), lr=3e-3)
    controller.attach(optimizer)
    train(model, optimizer, range(40))

    assert [point.step for point in controller.curve] == list(range(10, 41, 3))
    for point in controller.curve:
        assert point.goal == pytest.approx(cubic_ramp((point.step - 10) / 30, 0.0, 0.8), abs=1e-9)
        assert point.reached == pytest.approx(point.goal, abs=0.015)
    reached = [point.reached for point in controller.curve]
    assert all(after >= before - 0.01 for before, after in pairwise(reached))


@pytest.mark.parametrize("measure", ["parameters", "macs"])
@pytest.mark.parametrize("method", ["thresholds", "lasso"])
def test_parameters_and_macs_can_be_the_target(method, measure):
    model = two_tasks(width=20)
    structure, _, controller = controlled(model, 0.6, method, measure)
    optimizer = AdamW(model.parameters(), lr=0.01)
    controller.attach(optimizer)
    train(model, optimizer, range(END))
    bake_thresholds(model)
    keep = unread(structure, dict(model.named_parameters()))
    count = structure.params if measure == "parameters" else structure.macs

    assert 1 - count(keep) / count() == pytest.approx(0.6, abs=0.01)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize("method", ["thresholds", "lasso"])
def test_what_is_frozen_stays_zero_while_the_rest_heals(method, kind):
    model = two_tasks(width=20)
    _, groups, controller = controlled(model, 0.6, method)
    parameters = list(model.parameters())
    optimizer = (
        SGD(parameters, lr=0.05, momentum=0.9, weight_decay=0.01)
        if kind == "sgd"
        else AdamW(parameters, lr=0.01)
    )
    controller.attach(optimizer)
    train(model, optimizer, range(END))
    zeros, before = groups.zeros(), groups.levels()
    logits = controller.thresholds.logits.detach().clone() if controller.thresholds is not None else None
    train(model, optimizer, range(END, END + 20))

    assert torch.equal(groups.zeros(), zeros) and torch.equal(zeros, ~controller.is_alive())
    assert bool((groups.levels()[~zeros] != before[~zeros]).all())
    for own, alive in zip(groups.tensors, groups.spread((~zeros).float()), strict=True):
        for value in optimizer.state[own.parameter].values():
            if isinstance(value, torch.Tensor) and value.shape == own.parameter.shape:
                assert not bool((value * (1 - alive)).any())
    if logits is not None:
        assert torch.equal(controller.thresholds.logits, logits)


def test_learned_differences_between_logits_stay():
    model = two_tasks(width=20)
    _, _, controller = controlled(model, 0.5, "thresholds a layer", start=1, end=40)
    with torch.no_grad():
        controller.thresholds.logits[2] += 1.5
    optimizer = SGD(
        [own.parameter for own in controller.groups.tensors] + [controller.thresholds.logits], lr=0.0
    )
    controller.attach(optimizer)
    before = controller.thresholds.logits.detach().clone()
    train(model, optimizer, range(20))
    shifts = controller.thresholds.logits.detach() - before

    assert float(shifts.max() - shifts.min()) < 1e-4 < float(shifts.min())


def test_the_last_channel_of_a_layer_stays():
    model = two_tasks(width=20)
    with torch.no_grad():
        model.backbone[6].weight *= 1e-4  # every channel it reads is the first to go
    _, groups, controller = controlled(model, 0.8, "thresholds")
    optimizer = AdamW(model.parameters(), lr=1e-4)
    controller.attach(optimizer)
    train(model, optimizer, range(END))
    alive = dict(
        zip(
            (own.name for own in groups.sets),
            controller.is_alive().split([o.count for o in groups.sets]),
            strict=True,
        )
    )

    assert int(alive["backbone.3"].sum()) == 1
    assert all(bool(part.any()) for part in alive.values())


@pytest.mark.parametrize("method", ["thresholds", "lasso in adam", "both"])
def test_resumed_control_equals_uninterrupted(method):
    whole = two_tasks(width=12)
    _, _, controller = controlled(whole, 0.7, method)
    optimizer = AdamW(whole.parameters(), lr=0.01)
    controller.attach(optimizer)
    train(whole, optimizer, range(20))

    resumed = two_tasks(seed=1, width=12)
    _, _, again = controlled(resumed, 0.7, method)
    resumed.load_state_dict(copy.deepcopy(whole.state_dict()))
    own = AdamW(resumed.parameters(), lr=0.01)
    own.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    state = controller.state_dict()
    is_dead = state.pop("is_dead").clone()
    again.attach(own)
    again.load_state_dict({**json.loads(json.dumps(state)), "is_dead": is_dead})
    if controller.lasso is not None:
        again.lasso.load_state_dict(copy.deepcopy(controller.lasso.state_dict()))
    train(whole, optimizer, range(20, END + 10))
    train(resumed, own, range(20, END + 10))

    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert again.curve == controller.curve and again.steps == END + 10


def test_lambda_follows_the_learning_rate():
    model = two_tasks(width=12)
    _, _, controller = controlled(model, 0.7, "lasso", every=1)
    optimizer = AdamW(model.parameters(), lr=0.01)
    controller.attach(optimizer)
    train(model, optimizer, range(12))
    for rate in (0.01, 0.0025, 0.0):
        strength = controller.curve[-1].strength
        optimizer.param_groups[0]["lr"] = rate
        train(model, optimizer, [12])
        assert controller.lasso.lambda_ == (pytest.approx(strength / rate) if rate else 0.0)


def test_groups_of_single_layers_are_driven_just_so():
    model = two_tasks(width=20)
    _, groups = grouped(model, is_coupled=False)
    lasso = CoupledGroupLasso(groups, 0.0)
    controller = SparsityController(groups, 0.7, start=1, end=END, every=5, lasso=lasso)
    optimizer = AdamW(model.parameters(), lr=0.01)
    controller.attach(optimizer)
    train(model, optimizer, range(END + 5))

    assert float(groups.zeros().double().mean()) == pytest.approx(0.7, abs=0.01)


def test_steps_that_a_scaler_skips_do_not_count():
    model = two_tasks(width=12)
    _, _, controller = controlled(model, 0.5, "lasso")
    optimizer = AdamW(model.parameters(), lr=0.01, fused=True)
    controller.attach(optimizer)
    train(model, optimizer, range(3))
    optimizer.found_inf = torch.tensor(1.0)
    train(model, optimizer, range(2))

    assert controller.steps == 3


def test_a_whole_branch_may_die_where_that_is_asked_for():
    model = branched()
    with torch.no_grad():
        model.b.weight *= 1e-2
    _, groups = grouped(model)
    lasso = CoupledGroupLasso(groups, 0.0, branch_weight=1.0)
    controller = SparsityController(groups, 8 / 14, start=1, end=20, lasso=lasso)
    optimizer = SGD(model.parameters(), lr=1e-3)
    controller.attach(optimizer)
    train(model, optimizer, range(40))

    assert not model.b.weight.any()
    assert model.head.weight.any()


@pytest.mark.parametrize("target", [-0.1, 1.0, 1.5, float("nan")])
def test_a_target_that_is_no_share_is_refused(target):
    with pytest.raises(SparsityTargetError, match="^Expected `target` to be at least 0 and below 1, but got"):
        controlled(two_tasks(width=12), target, "lasso")


def test_a_target_out_of_reach_is_refused_with_the_range():
    model = two_tasks(width=12)
    with pytest.raises(
        SparsityTargetError, match=r"^Expected `target` to be between 0 and 0\.950, .* but got 0.99\."
    ):
        controlled(model, 0.99, "lasso")
    # The stem, norms and heads stay, so that not all parameters can go.
    with pytest.raises(SparsityTargetError, match=r"^Expected `target` to be between 0 and 0\.9[0-9]*, "):
        controlled(model, 0.999, "lasso", "parameters")


def test_a_reachable_target_of_a_restricted_network():
    model = two_tasks(width=12)
    structure, groups = grouped(model, component_of=model.component_of, components=("depth",))
    lasso = CoupledGroupLasso(groups, 0.0)
    with pytest.raises(
        SparsityTargetError, match=r"^Expected `target` to be between 0 and 0\.\d+, .* 0 sets|2 sets"
    ):
        SparsityController(
            groups, 0.5, start=0, end=9, measure=parameters_share(groups, structure), lasso=lasso
        )


def test_bad_arguments_are_refused():
    model = two_tasks(width=12)
    _, groups = grouped(model)
    lasso = CoupledGroupLasso(groups, 0.0)
    with pytest.raises(ValueError, match="^Expected `thresholds` or `lasso` to be given, but got neither.$"):
        SparsityController(groups, 0.5, start=1, end=9)
    with pytest.raises(ValueError, match="^Expected `start` to be at least 0 and `end` .* but got 9 and 5.$"):
        SparsityController(groups, 0.5, start=9, end=5, lasso=lasso)
    with pytest.raises(ValueError, match="^Expected `every` to be at least 1, but got 0.$"):
        SparsityController(groups, 0.5, start=1, end=9, every=0, lasso=lasso)
    controller = SparsityController(groups, 0.5, start=1, end=9, lasso=lasso)
    optimizer = AdamW(model.parameters())
    controller.attach(optimizer)
    with pytest.raises(ValueError, match="^Expected the controller to be attached to no optimizer"):
        controller.attach(optimizer)
    other = controlled(two_tasks(width=8), 0.5, "lasso")[2]
    with pytest.raises(ValueError, match="^Expected `state` to be of 140 groups, but got one of 120.$"):
        controller.load_state_dict(other.state_dict())


def test_detached_it_leaves_the_network_alone():
    model = two_tasks(width=12)
    _, groups, controller = controlled(model, 0.5, "lasso", start=1)
    optimizer = AdamW(model.parameters())
    controller.attach(optimizer)
    controller.detach()
    train(model, optimizer, range(END))

    assert controller.steps == 0 and not groups.zeros().any()
