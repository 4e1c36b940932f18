import copy
import math

import pytest
import torch
from torch.optim import AdamW

from lomt.errors import SparsityTargetError, UnknownNameError
from lomt.sparsity import (
    PUBLISHED_LOGIT,
    add_group_thresholds,
    add_soft_thresholds,
    bake_thresholds,
    thresholds_of,
)
from lomt.sparsity.structured_threshold import GRANULARITIES
from tests.reference import coupled_prox as reference
from tests.unit.sparsity.coupled_networks import IMAGES, branched, grouped, loss_of, train, two_tasks


def logit(tau):
    return math.log(tau / (1 - tau))


def thresholded(model, tau, **options):
    structure, groups = grouped(model)
    return structure, groups, add_group_thresholds(model, groups, initial_logit=logit(tau), **options)


def numeric_gradient(model, parameter, index, step=1e-6):
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            parameter.view(-1)[index] += sign * step
            values.append(float(loss_of(model, 0)))
            parameter.view(-1)[index] -= sign * step
    return (values[0] - values[1]) / (2 * step)


@pytest.mark.parametrize("tau", [0.02, 0.1, 0.2])
def test_every_group_is_soft_thresholded_as_a_whole(tau):
    model, expected = branched(), branched()
    structure, groups = grouped(expected)
    reference.shrink(structure, expected, tau)
    thresholded(model, tau)

    for layer in ("a", "b", "head"):
        torch.testing.assert_close(getattr(model, layer).weight, getattr(expected, layer).weight)
    assert torch.equal(model.group_thresholds.zeros(), groups.zeros())


@pytest.mark.parametrize("per", GRANULARITIES)
def test_gradients_are_those_of_finite_differences(per):
    model = branched().double()
    _, groups, source = thresholded(model, 0.12, per=per)
    model.double()
    assert 0 < int(source.zeros().sum()) < groups.count
    loss_of(model, 0).backward()

    for parameter in (source.logits, *(own.parameter for own in groups.tensors)):
        for index in range(0, parameter.numel(), 7):
            expected = numeric_gradient(model, parameter, index)
            assert float(parameter.grad.view(-1)[index]) == pytest.approx(expected, rel=1e-5, abs=1e-9)


def test_a_group_at_zero_has_no_gradient():
    model = branched()
    _, groups, source = thresholded(model, 0.12)
    loss_of(model, 0).backward()

    gradients = groups.sums(
        torch.cat([own.parameter.grad.abs().movedim(own.dim, 0).flatten(1).sum(1) for own in groups.tensors])
    )
    assert torch.equal(gradients == 0, source.zeros())


@pytest.mark.parametrize(
    ("per", "names"),
    [
        ("component", ["backbone", "depth", "segmentation"]),
        ("stage", ["backbone/64", "depth/64", "segmentation/64"]),
        (
            "layer",
            [f"backbone.{i}" for i in (0, 3, 6, 9, 12)] + ["decoders.depth.0", "decoders.segmentation.0"],
        ),
    ],
)
def test_one_logit_a_component_a_stage_or_a_layer(per, names):
    model = two_tasks()
    _, groups = grouped(model, component_of=model.component_of)

    assert list(add_group_thresholds(model, groups, per=per).names) == names


def test_the_start_changes_next_to_nothing():
    model = two_tasks()
    before = model(IMAGES)
    source = add_group_thresholds(model, grouped(model)[1])

    assert source.sparsity() == 0
    for task, after in model(IMAGES).items():
        torch.testing.assert_close(after, before[task], rtol=0.01, atol=0.01)


def test_groups_at_zero_do_not_set_the_start():
    model = branched()
    with torch.no_grad():
        model.b.weight.zero_()
    _, groups = grouped(model)
    source = add_group_thresholds(model, groups, per="layer")

    assert source.thresholds["stem"] > 1e-5
    assert source.logits[1] == PUBLISHED_LOGIT


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_baking_leaves_the_same_weights_and_parameters(dtype):
    model = two_tasks().to(dtype)
    parameters = dict(model.named_parameters())
    thresholded(model, 0.025)
    layers = [model.backbone[3], model.backbone[6], model.decoders["depth"][0]]
    expected, before = [layer.weight.detach().clone() for layer in layers], model.eval()(IMAGES.to(dtype))
    bake_thresholds(model)

    assert 0 < sum(int((w == 0).sum()) for w in expected) < sum(w.numel() for w in expected)
    assert all(torch.equal(layer.weight, own) for layer, own in zip(layers, expected, strict=True))
    assert {n: id(p) for n, p in model.named_parameters()} == {n: id(p) for n, p in parameters.items()}
    assert all(torch.equal(after, before[task]) for task, after in model(IMAGES.to(dtype)).items())
    assert (
        not model._forward_hooks and not model._forward_pre_hooks and not model._forward_hooks_always_called
    )


def test_baking_a_plain_model_does_nothing():
    model = branched()
    before = copy.deepcopy(model.state_dict())
    bake_thresholds(model)

    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_settling_computes_the_same_and_lets_nothing_shrink_further():
    model = two_tasks().eval()
    _, _, source = thresholded(model, 0.025)
    before, zeros = model(IMAGES), source.zeros()
    source.settle()

    assert torch.equal(source.zeros(), zeros) and 0 < int(zeros.sum()) < len(zeros)
    assert all(torch.equal(after, before[task]) for task, after in model(IMAGES).items())
    assert bool((source.factors()[~zeros] == 1).all())


def test_margins_say_when_a_group_goes():
    model = two_tasks()
    _, groups, source = thresholded(model, 0.01, per="layer")
    order = source.margins().sort()
    middle = groups.count // 2
    source.raise_by(float(order.values[middle - 1 : middle + 1].mean()))

    assert set(source.zeros().nonzero().flatten().tolist()) == set(order.indices[:middle].tolist())


def test_spared_groups_are_not_touched():
    model = branched()
    _, groups, source = thresholded(model, 0.9)
    spared = torch.zeros(groups.count, dtype=torch.bool)
    spared[[1, 8]] = True
    source.spare(spared)

    assert torch.equal(~source.zeros(), spared)
    assert torch.equal(model.head.weight[:, 1], model.head.parametrizations.weight.original[:, 1])


def test_factors_are_computed_once_a_pass_and_gradients_accumulate():
    model = branched()
    _, _, source = thresholded(model, 0.05)
    calls = []
    compute = source.factors
    source.factors = lambda: calls.append(1) or compute()
    for seed in (0, 1):
        loss_of(model, seed).backward()

    assert len(calls) == 2


def test_a_failing_pass_leaves_no_stale_factors():
    model = branched()
    _, _, source = thresholded(model, 0.05)
    with pytest.raises(RuntimeError):
        model(torch.rand(1, 5, 8, 8))
    with torch.no_grad():
        model.a.parametrizations.weight.original.mul_(2)

    assert torch.equal(model.a.weight, model.a.parametrizations.weight.original * groups_factor(source))


def groups_factor(source):
    return source.groups.spread(source.factors())[0].float()


def test_copies_are_independent_and_load_each_others_state():
    model = two_tasks()
    thresholded(model, 0.02)
    twin = copy.deepcopy(model)
    optimizer = AdamW(model.parameters(), lr=0.01)
    train(model, optimizer, range(3))

    assert (model.group_thresholds.logits != twin.group_thresholds.logits).all()
    twin.load_state_dict(model.state_dict())
    model.eval(), twin.eval()
    assert all(torch.equal(after, twin(IMAGES)[task]) for task, after in model(IMAGES).items())
    bake_thresholds(twin)
    assert all(torch.equal(after, twin(IMAGES)[task]) for task, after in model(IMAGES).items())


def test_bf16_is_computed_from_full_weights():
    model = two_tasks()
    _, _, source = thresholded(model, 0.02)
    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_of(model, 0)
    loss.backward()

    assert model.backbone[3].weight.dtype == torch.float32
    assert source.logits.grad.isfinite().all() and source.logits.grad.abs().sum() > 0


@pytest.mark.parametrize("first", ["group", "soft"])
def test_thresholds_cannot_be_added_twice(first):
    model = branched()
    _, groups = grouped(model)
    if first == "group":
        add_group_thresholds(model, groups)
    else:
        add_soft_thresholds(model)

    with pytest.raises(
        SparsityTargetError, match=f"no thresholds yet, but got one with `{first}_thresholds`"
    ):
        add_group_thresholds(model, groups)


def test_a_model_without_thresholds_has_none():
    with pytest.raises(
        SparsityTargetError, match="^Expected the model to have thresholds, but got one without"
    ):
        thresholds_of(branched())


def test_an_unknown_granularity_is_refused():
    import inspect

    model = branched()
    with pytest.raises(UnknownNameError, match="Unknown granularity `layers`, did you mean `layer`"):
        inspect.unwrap(add_group_thresholds)(model, grouped(model)[1], per="layers")
