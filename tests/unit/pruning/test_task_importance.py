import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lomt.errors import ScoreError, UnknownNameError
from lomt.pruning.task_importance import (
    COMBINATIONS,
    SquaredOutputs,
    SupervisedLosses,
    TaskTaylor,
    task_saliency,
)
from tests.reference import channel_scores as reference
from tests.reference.hand_structure import two_tasks


def tensors(**scores):
    return {name.replace("_", "."): torch.tensor(values) for name, values in scores.items()}


def assert_values(scores, expected):
    assert set(scores) == set(expected)
    for name, values in expected.items():
        assert scores[name].tolist() == pytest.approx(values)


TASKS = {
    "depth": tensors(shared=[4.0, 0.0, 3.0, 3.0], depth_0=[10.0, 0.0]),
    "label": tensors(shared=[0.0, 0.1, 0.1, 0.0], label_0=[0.3]),
}


def test_each_task_has_its_own_saliency_and_knows_nothing_of_other_decoders():
    model, structure, images = two_tasks()
    tasks = task_saliency(structure, model, SquaredOutputs([images, images + 1]))
    assert {task: list(scores) for task, scores in tasks.items()} == {
        "depth": ["stem", "shared", "depth.0"],
        "label": ["stem", "shared", "label.0"],
    }
    for task, scores in tasks.items():
        losses = [model(images + i)[task].square().mean() for i in (0, 1)]
        expected = reference.taylor(model, structure, losses)
        for name, values in scores.items():
            torch.testing.assert_close(values, expected[name], rtol=1e-5, atol=1e-9)


def test_union_is_the_highest_rank_in_any_task():
    scores = COMBINATIONS["union"](TASKS, {})
    # Depth's six channels from low to high: 0 0 3 3 4 10; label's five: 0 0 .1 .1 .3.
    expected = {"shared": [4 / 6, 2 / 5, 2 / 5, 2 / 6], "depth.0": [5 / 6, 0], "label.0": [4 / 5]}
    assert_values(scores, expected)


def test_share_is_the_largest_part_of_any_tasks_saliency():
    scores = COMBINATIONS["share"](TASKS, {})
    expected = {"shared": [4 / 20, 0.2, 0.2, 3 / 20], "depth.0": [0.5, 0], "label.0": [0.6]}
    assert_values(scores, expected)


def test_weighted_sums_shares_with_a_weight_of_one_where_none_is_given():
    scores = COMBINATIONS["weighted"](TASKS, {"label": 0.5})
    expected = {"shared": [0.2, 0.1, 0.25, 0.15], "depth.0": [0.5, 0], "label.0": [0.3]}
    assert_values(scores, expected)


@st.composite
def distinct_saliencies(draw):
    tasks = {}
    for task in ("a", "b", "c")[: draw(st.integers(1, 3))]:
        sizes = {"shared": 6, task: draw(st.integers(1, 4))}
        values = torch.tensor(draw(st.permutations(range(1, sum(sizes.values()) + 1)))).double() ** 2
        tasks[task] = dict(zip(sizes, values.split(list(sizes.values())), strict=True))
    return tasks


@settings(max_examples=60, deadline=None)
@given(tasks=distinct_saliencies(), fraction=st.sampled_from([0.1, 0.3, 0.5, 0.8, 1.0]))
def test_a_threshold_on_the_union_keeps_what_disparse_keeps(tasks, fraction):
    scores = COMBINATIONS["union"](tasks, {})
    # Of n channels the top round(n f) have at least n - round(n f) below them.
    kept = set()
    for task, of_task in tasks.items():
        total = sum(len(values) for values in of_task.values())
        threshold = 1 - round(fraction * total) / total
        alone = COMBINATIONS["union"]({task: of_task}, {})
        kept |= {(n, c) for n, v in alone.items() for c in range(len(v)) if v[c] >= threshold - 1e-12}
        for name, values in alone.items():
            assert (scores[name] >= values).all()
    assert kept == reference.kept_by_union(tasks, fraction)


@pytest.mark.parametrize("combine", COMBINATIONS)
def test_a_channel_that_one_task_alone_needs_beats_one_that_none_needs(combine):
    model, structure, images = two_tasks()
    with torch.no_grad():
        model.depth[0].weight[:, 0] = 0  # channel 0 serves the label alone
        model.depth[0].weight[:, 1] = 0  # channel 1 serves none
        model.label[0].weight[:, 1] = 0
        model.shared.bias[:2] = 5
    scores = TaskTaylor(SquaredOutputs([images]), combine)(structure, model)["shared"]
    assert scores[0] > 0
    assert scores[1] == scores.min() == 0


@pytest.mark.parametrize("combine", ["union", "share", "weighted"])
def test_the_scale_of_a_tasks_loss_does_not_matter(combine):
    model, structure, images = two_tasks()
    small, large = (
        lambda m, scale=scale: [{name: scale[name] * y.square().mean() for name, y in m(images).items()}]
        for scale in ({"depth": 1.0, "label": 1.0}, {"depth": 1024.0, "label": 1.0})
    )
    expected = TaskTaylor(small, combine)(structure, model)
    for name, values in TaskTaylor(large, combine)(structure, model).items():
        torch.testing.assert_close(values, expected[name])


def test_channels_of_no_task_get_nought():
    model, structure, images = two_tasks()
    scores = TaskTaylor(lambda m: [{"depth": m(images)["depth"].mean()}])(structure, model)
    assert list(scores) == ["stem", "shared", "depth.0", "label.0"]
    assert not scores["label.0"].any() and scores["depth.0"].any()


def test_a_loss_of_nought_needs_no_channel():
    model, structure, images = two_tasks()
    for combine in COMBINATIONS:
        scores = TaskTaylor(lambda m: [{"depth": 0 * m(images)["depth"].sum()}], combine)(structure, model)
        assert not any(values.any() for values in scores.values())


@pytest.mark.parametrize("kind", ["tuple", "dictionary"])
def test_squared_outputs_are_mean_squares_whatever_the_inputs_form(kind):
    model, _, images = two_tasks()
    inputs = (images,) if kind == "tuple" else {"images": images}
    (losses,) = SquaredOutputs([inputs])(model)
    outputs = model(images)
    assert {name: float(loss.detach()) for name, loss in losses.items()} == pytest.approx(
        {name: float((y.detach() ** 2).mean()) for name, y in outputs.items()}
    )


def test_outputs_without_gradient_are_left_out_of_squared_outputs():
    model, structure, images = two_tasks()
    model.register_forward_hook(
        lambda m, i, out: {**out, "where": torch.ones(2), "most": out["label"].argmax(1)}
    )
    assert list(task_saliency(structure, model, SquaredOutputs([images]))) == ["depth", "label"]


def test_supervised_losses_compare_each_output_with_its_target():
    model, structure, images = two_tasks()
    targets = {"depth": torch.zeros(2, 1, 4, 4), "label": torch.tensor([1, 4])}
    functions = {"depth": lambda p, t: (p - t).abs().mean(), "label": torch.nn.functional.cross_entropy}
    losses = SupervisedLosses([(images, targets)], functions)
    (values,) = losses(model)
    outputs = model(images)
    torch.testing.assert_close(values["depth"], outputs["depth"].abs().mean())
    torch.testing.assert_close(
        values["label"], torch.nn.functional.cross_entropy(outputs["label"], torch.tensor([1, 4]))
    )
    assert set(task_saliency(structure, model, losses)) == {"depth", "label"}


def test_a_task_without_an_output_is_refused():
    model, structure, images = two_tasks()
    losses = SupervisedLosses([(images, {"dept": None})], {"dept": lambda p, t: p.mean()})
    with pytest.raises(UnknownNameError, match="Unknown output `dept`, did you mean `depth`?"):
        task_saliency(structure, model, losses)


@pytest.mark.parametrize(
    "value, got", [(lambda m: m.stem.weight.sum(), "one tensor"), (lambda m: {}, "an empty one")]
)
def test_losses_without_task_names_are_refused(value, got):
    model, structure, _ = two_tasks()
    with pytest.raises(ScoreError, match=f"dictionary of task name → loss for each batch, but got {got}"):
        TaskTaylor(lambda m: [value(m)])(structure, model)


def test_unknown_combinations_tasks_and_negative_weights_are_refused():
    model, structure, images = two_tasks()
    losses = SquaredOutputs([images])
    with pytest.raises(UnknownNameError, match="Unknown combination `unoin`, did you mean `union`?"):
        TaskTaylor(losses, "unoin")
    with pytest.raises(UnknownNameError, match="Unknown task `lable`, did you mean `label`?"):
        TaskTaylor(losses, "weighted", {"lable": 2.0})(structure, model)
    with pytest.raises(ValueError, match=r"weight of task `depth` to be at least 0, but got -1.0"):
        TaskTaylor(losses, "weighted", {"depth": -1.0})
