import copy
from itertools import pairwise

import pytest
import torch
from torch import nn

from lomt.errors import ScoreError, SparsityTargetError, UnknownNameError
from lomt.sparsity.baselines import (
    BASELINES,
    apply_masks,
    iterative_magnitude,
    per_task_scores,
    prunable_weights,
    round_target,
    weight_masks,
)
from lomt.structure import trace_structure
from tests.reference import sparse_baselines as reference
from tests.unit.sparsity.baselines.networks import SERVES, losses, two_tasks


def masks_of(method, model, target, **options):
    return weight_masks(
        method, model, target, losses=losses, serves=SERVES, component_of=model.component_of, **options
    )


def expected_masks(method, model, target):
    """By the slow reference; None where exactly as many cannot be kept by the union rule alone."""
    weights = reference.conv_weights(model)
    shapes = {name: weight.shape for name, weight in weights.items()}
    total = sum(weight.numel() for weight in weights.values())
    count = total - round(target * total)
    if method in ("global_magnitude", "imp", "lth"):
        return reference.keep_top({name: weight.abs() for name, weight in weights.items()}, count)
    if method == "snip":
        return reference.keep_top(reference.snip(model, losses), count)
    if method == "disparse_static":
        return reference.disparse(reference.by_task(model, losses), shapes, count)[0]
    tasks = {
        task: {name: weight.abs() for name, weight in weights.items() if task in SERVES[name]}
        for task in ("depth", "label")
    }
    return reference.disparse(tasks, shapes, count)[0]


@pytest.mark.parametrize("method", BASELINES)
@pytest.mark.parametrize("target", [0.0, 0.3, 0.5, 0.9])
def test_every_method_is_what_the_paper_says(method, target):
    model = two_tasks()
    masks = masks_of(method, model, target)
    expected = expected_masks(method, model, target)
    total = sum(mask.numel() for mask in masks.keep.values())

    assert masks.total.zero == round(target * total)
    assert list(masks.keep) == list(SERVES)
    if expected is not None:
        assert all(masks.keep[name].equal(expected[name]) for name in expected)


def test_the_reference_judges_most_sizes():
    """Two tasks that begin to want a weight at the same fraction make some sizes unreachable for the bare rule."""
    model = two_tasks()
    judged = [
        expected_masks(method, model, target) is not None
        for method in ("disparse_static", "disparse_pretrained")
        for target in (0.3, 0.5, 0.9)
    ]
    assert sum(judged) >= 3


def test_serves_is_what_the_structure_says():
    model = two_tasks()
    serves = trace_structure(model, torch.zeros(1, 3, 4, 4, dtype=torch.float64)).serves
    assert {name: serves[name] for name in SERVES} == SERVES


def test_pretrained_disparse_without_labels_or_with_gradients():
    model = two_tasks()
    weights = prunable_weights(model)
    by_size = per_task_scores("disparse_pretrained", model, weights, None, SERVES)
    by_loss = per_task_scores("disparse_pretrained", model, weights, losses, None)

    assert by_size["depth"]["stem.weight"].equal(model.stem.weight.abs())
    assert set(by_size["label"]) == {"stem.weight", "shared.weight", "label.0.weight"}
    expected = reference.by_task(model, losses, power=2)
    assert expected.keys() == by_loss.keys()
    for task, own in expected.items():
        assert own.keys() == by_loss[task].keys()
        assert all(torch.allclose(own[name], by_loss[task][name]) for name in own)


@pytest.mark.parametrize("method", ["global_magnitude", "disparse_static"])
def test_parts_are_never_one_number(method):
    model = two_tasks()
    masks = masks_of(method, model, 0.5)

    assert list(masks.parts) == ["backbone", "depth", "label"]
    assert masks.parts["backbone"].count == 5 * 27 + 30
    assert sum(part.zero for part in masks.parts.values()) == masks.total.zero
    assert str(masks).splitlines()[-1].split()[-1] == f"{masks.total.sparsity:.1%}"
    stored = masks.to_dict()
    assert [part["name"] for part in stored["parts"]] == ["backbone", "depth", "label", "total"]
    assert ("kappa" in stored["facts"]) == (method == "disparse_static")


def test_within_each_part_the_share_is_the_same():
    parts = masks_of("snip", two_tasks(), 0.5, scope="component").parts
    assert [part.zero for part in parts.values()] == [round(0.5 * part.count) for part in parts.values()]


def test_only_the_parts_asked_for():
    masks = masks_of("disparse_pretrained", two_tasks(), 0.5, components=["backbone"])
    assert set(masks.keep) == {"stem.weight", "shared.weight"}
    assert masks.total.sparsity == pytest.approx(0.5, abs=0.01)


def test_the_model_is_left_alone_until_masks_are_applied():
    model = two_tasks()
    before = copy.deepcopy(model.state_dict())
    masks = masks_of("snip", model, 0.5)
    assert all(before[name].equal(value) for name, value in model.state_dict().items())

    apply_masks(model, masks.keep)
    for name, value in model.state_dict().items():
        mask = masks.keep.get(name, torch.ones_like(value, dtype=torch.bool))
        assert value.equal(torch.where(mask, before[name], torch.zeros_like(value)))


# --- rounds


def nudge(model, masks):
    """Train, as it were: every weight that stays moves; zeros stay."""
    with torch.no_grad():
        for name, mask in masks.keep.items():
            weight = model.get_parameter(name)
            noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(3), dtype=weight.dtype)
            weight.add_(noise * mask)


def test_one_round_with_rewinding_is_the_lottery_ticket():
    model, first = two_tasks(0), two_tasks(7).state_dict()
    expected = weight_masks("lth", model, 0.6).keep
    masks = iterative_magnitude(model, 0.6, rounds=1, train=nudge, rewind_to=first)

    assert all(masks.keep[name].equal(expected[name]) for name in expected)
    for name, value in model.state_dict().items():
        mask = masks.keep.get(name)
        assert value.equal(first[name] if mask is None else first[name] * mask)


@pytest.mark.parametrize("does_rewind", [True, False])
def test_rounds_cut_what_is_left_of_what_was_trained(does_rewind):
    model, first = two_tasks(0), two_tasks(7).state_dict()
    seen = []

    def train(trained, masks):
        seen.append((masks, copy.deepcopy(trained.state_dict())))
        nudge(trained, masks)

    rewind_to = first if does_rewind else None
    last = iterative_magnitude(model, 0.875, rounds=3, train=train, rewind_to=rewind_to)
    rounds = [masks for masks, _ in seen] + [last]

    assert [masks.target for masks in rounds] == pytest.approx([0.5, 0.75, 0.875])
    for before, after in pairwise(rounds):
        assert all(bool((before.keep[name] | ~after.keep[name]).all()) for name in after.keep)
    state = seen[1][1]
    if does_rewind:
        assert state["stem.weight"].equal(first["stem.weight"] * rounds[1].keep["stem.weight"])
    # What the second round cuts are the smallest of the weights that the first one's training left.
    trained = copy.deepcopy(two_tasks(0))
    trained.load_state_dict(seen[0][1])
    nudge(trained, rounds[0])
    weights = {name: trained.get_parameter(name).abs() for name in SERVES}
    total = sum(own.numel() for own in weights.values())
    expected = reference.keep_top(weights, total - round(0.75 * total))
    assert all(rounds[1].keep[name].equal(expected[name]) for name in expected)


def test_targets_of_rounds():
    assert [round_target(0.99, number, 2) for number in (1, 2)] == pytest.approx([0.9, 0.99])
    assert round_target(0.3, 1, 1) == 0.3


# --- bad input


def test_an_unknown_method():
    with pytest.raises(
        UnknownNameError,
        match="Unknown method `snap`, did you mean `snip`? Known are disp".replace("?", r"\?"),
    ):
        weight_masks("snap", two_tasks(), 0.5)


def test_an_unknown_component():
    with pytest.raises(
        UnknownNameError, match="Unknown component `edges`. Known are backbone, depth, label."
    ):
        masks_of("global_magnitude", two_tasks(), 0.5, components=["edges"])


@pytest.mark.parametrize("target", [-0.5, 1.0, 2.0])
@pytest.mark.parametrize("method", ["global_magnitude", "snip"])
def test_a_share_that_is_none(method, target):
    with pytest.raises(SparsityTargetError, match=f"at least 0 and below 1, but got {target}"):
        masks_of(method, two_tasks(), target)


def test_a_model_without_convolutions():
    with pytest.raises(
        SparsityTargetError,
        match="^Expected the model to have convolutions whose weights may be zero, but it has none",
    ):
        weight_masks("global_magnitude", nn.Linear(3, 4), 0.5)
    frozen = nn.Conv2d(3, 4, 1).requires_grad_(False)
    with pytest.raises(SparsityTargetError, match="Unfreeze what may be sparse"):
        weight_masks("global_magnitude", frozen, 0.5)


@pytest.mark.parametrize(
    ("method", "needed"),
    [("snip", "losses"), ("disparse_static", "losses"), ("disparse_pretrained", "serves` or `losses")],
)
def test_methods_that_read_losses_say_so(method, needed):
    with pytest.raises(
        ScoreError,
        match=f"^Expected `{needed}` for method `{method}`, but got None. Give the losses of a few",
    ):
        weight_masks(method, two_tasks(), 0.5)


def test_a_gradient_that_is_not_finite():
    model = two_tasks()

    def broken(model):
        yield {"depth": (model.stem.weight * 0).sum().sqrt() + 1}

    with pytest.raises(ScoreError, match="^Expected the gradient of `stem.weight` to be finite"):
        weight_masks("snip", model, 0.5, losses=broken)


def test_no_rounds():
    with pytest.raises(ValueError, match="^Expected `rounds` to be at least 1, but got 0.$"):
        iterative_magnitude(two_tasks(), 0.5, rounds=0, train=nudge)
