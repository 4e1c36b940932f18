"""From raw predictions to targets."""

import math

import pytest
import torch
from torch import nn

from lomt.data import DENSE_KINDS, TARGET_KINDS, TargetSpec, collate
from lomt.errors import DataError, UnknownNameError
from lomt.pipeline.original_answers import OriginalAnswers, as_target, specs_of_answers
from lomt.tasks import make_task

CHANNELS = {"depth": 1, "normals": 3, "edges": 1}
SIZE = (6, 8)


def prediction_of(kind, count=4, channels=None):
    torch.manual_seed(0)
    shape = SIZE if kind in DENSE_KINDS else ()
    found = torch.randn(count, channels or CHANNELS.get(kind, 5), *shape)
    return found.abs() + 0.1 if kind == "depth" else 3 * found


def batch_of(kind, prediction):
    """The target as a loader gives it."""
    spec = specs_of_answers({"t": prediction}, {"t": kind}, SIZE, {})["t"]
    image = torch.zeros(*SIZE, 3, dtype=torch.uint8).numpy()
    samples = [{"image": image, "t": row} for row in as_target(kind, prediction)]
    return collate(samples, {"t": spec})["t"], spec


@pytest.mark.parametrize("kind", TARGET_KINDS)
def test_a_network_agrees_with_its_own_answers(kind):
    prediction = prediction_of(kind)
    target, spec = batch_of(kind, prediction)
    task = make_task("t", kind, spec.out_channels, classes=spec.classes)

    task.check(prediction, target)
    found = task.metrics.compute(task.metrics.statistics(prediction, target))
    for info in task.metrics.infos:
        if kind == "edges" and info.name == "mae":
            continue  # a probability is compared with 0 or 1
        if info.higher_is_better:
            assert found[info.name] == pytest.approx(1, abs=1e-6)
        else:
            assert found[info.name] < (0.05 if info.unit == "deg" else 1e-3)


@pytest.mark.parametrize("kind", TARGET_KINDS)
def test_every_entry_has_a_label(kind):
    prediction = prediction_of(kind)
    target, spec = batch_of(kind, prediction)
    layout = make_task("t", kind, spec.out_channels).metrics.layout
    assert bool(layout.find_valid(target).all())


def test_answers_are_kept_in_the_least_space():
    bytes_a_pixel = {
        kind: as_target(kind, prediction_of(kind))[0].nbytes / math.prod(SIZE) for kind in DENSE_KINDS
    }
    assert bytes_a_pixel == {"segmentation": 1, "depth": 4, "normals": 6, "edges": 1, "keypoints": 10}
    assert as_target("segmentation", prediction_of("segmentation", channels=200)).dtype.name == "int16"


def test_what_is_no_depth_and_no_direction_is_no_label():
    assert as_target("depth", torch.tensor([[[[-1.0, 0.0, 2.0]]]])).tolist() == [[[[0, 0, 2]]]]
    assert not as_target("normals", torch.zeros(1, 3, 2, 2)).any()


def test_a_label_is_where_the_probability_is_above_one_half():
    assert as_target("multilabel", torch.tensor([[-0.1, 0.0, 0.1]])).tolist() == [[0, 0, 1]]
    assert as_target("edges", torch.tensor([[[[-0.1, 0.0, 0.1]]]])).tolist() == [[[[0, 0, 1]]]]


def test_classes_have_the_datasets_names_or_numbers():
    prediction = {"parts": prediction_of("segmentation"), "pose": prediction_of("regression")}
    kinds = {"parts": "segmentation", "pose": "regression"}
    found = specs_of_answers(prediction, kinds, SIZE, {})
    assert found["parts"] == TargetSpec("parts", "segmentation", tuple("01234"), 5)
    assert found["pose"] == TargetSpec("pose", "regression", (), 5)
    own = {"parts": TargetSpec("labels", "segmentation", tuple("abcde"))}
    assert specs_of_answers(prediction, kinds, SIZE, own)["parts"].classes == tuple("abcde")


@pytest.mark.parametrize(
    ("kind", "shape", "wanted"),
    [
        ("depth", (2, 3, 6, 8), "(batch, 1, 6, 8)"),
        ("normals", (2, 1, 6, 8), "(batch, 3, 6, 8)"),
        ("segmentation", (2, 1, 6, 8), "(batch, 2 or more, 6, 8)"),
        ("segmentation", (2, 5, 3, 4), "(batch, 2 or more, 6, 8)"),
        ("segmentation", (2, 5), "(batch, 2 or more, 6, 8)"),
        ("classification", (2, 5, 6, 8), "(batch, 2 or more)"),
        ("multilabel", (2,), "(batch, 1 or more)"),
        ("regression", (2, 1, 6, 8), "(batch, 1 or more)"),
    ],
)
def test_predictions_that_cannot_become_targets(kind, shape, wanted):
    with pytest.raises(DataError) as caught:
        specs_of_answers({"t": torch.zeros(shape)}, {"t": kind}, SIZE, {})
    assert str(caught.value) == (
        f"Expected the original network's predictions of task `t` to have shape {wanted}, because "
        f"`data.targets: original` makes targets of kind {kind} of them, but got {shape}. Give the task another "
        "`kind`, or leave it out."
    )


@pytest.mark.parametrize(
    "own", [TargetSpec("labels", "segmentation", tuple("abc")), TargetSpec("labels", "depth")]
)
def test_labels_that_the_network_does_not_speak_of(own):
    with pytest.raises(
        DataError, match="of task `t` to be of kind segmentation with 5 outputs, as .*`labels`"
    ):
        specs_of_answers({"t": prediction_of("segmentation")}, {"t": "segmentation"}, SIZE, {"t": own})


class Constant(nn.Module):
    """Says the same of every image."""

    def __init__(self, **values):
        super().__init__()
        self.values = values

    def forward(self, images):
        assert not torch.is_grad_enabled()
        return {name: torch.full((len(images), 1, *SIZE), value) for name, value in self.values.items()}


def answers_of(network, **kinds):
    return OriginalAnswers(network, lambda images: images, kinds, torch.device("cpu"))


def test_only_the_recipes_tasks_are_answered():
    found = answers_of(Constant(depth=2.0, other=1.0), depth="depth")(torch.zeros(3, 3, *SIZE))
    assert list(found) == ["depth"]
    assert found["depth"].shape == (3, 1, *SIZE)
    assert (found["depth"] == 2).all()


def test_a_task_that_the_network_does_not_know():
    with pytest.raises(
        UnknownNameError, match="prediction of the original network `depht`, did you mean `depth`"
    ):
        answers_of(Constant(depth=2.0), depht="depth")(torch.zeros(1, 3, *SIZE))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_predictions_that_are_no_numbers(value):
    with pytest.raises(
        DataError, match="predictions of task `depth` to be finite, but they are not. Check its"
    ):
        answers_of(Constant(depth=value), depth="depth")(torch.zeros(1, 3, *SIZE))
