import pickle

import pytest

from lomt.errors import UnknownNameError
from lomt.tasks import KINDS, LOSSES, make_task
from lomt.tasks.losses import HuberError


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_loss_is_the_default(kind, task_of):
    assert task_of(kind) == task_of(kind, loss=next(iter(LOSSES[kind])))


def test_every_kind_has_losses():
    assert list(LOSSES) == list(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_is_dense(kind, task_of):
    dense = {"segmentation", "depth", "normals", "edges", "keypoints"}
    assert task_of(kind).is_dense == (kind in dense)


@pytest.mark.parametrize("kind", KINDS)
def test_survives_pickling(kind, task_of):
    task = task_of(kind)
    assert pickle.loads(pickle.dumps(task)) == task


def test_edge_huber_has_the_papers_delta_unless_told(task_of):
    assert task_of("edges", loss="huber").loss == HuberError(task_of("edges").loss.layout, delta=0.3)
    told = make_task("edges", "edges", 1, loss="huber", loss_options={"delta": 0.2})
    assert told.loss == HuberError(told.loss.layout, delta=0.2)


def test_keeps_class_names():
    assert make_task("scene", "classification", 2, classes=["in", "out"]).classes == ("in", "out")


@pytest.mark.parametrize(
    ("kind", "options", "unknown"),
    [
        ("dept", {}, ("task kind", "dept", list(KINDS))),
        ("depth", {"loss": "hubert"}, ("depth loss", "hubert", ["l1", "mse", "huber"])),
        ("depth", {"loss_options": {"delta": 1}}, ("option of the l1 loss", "delta", [])),
        (
            "depth",
            {"loss": "huber", "loss_options": {"detla": 1}},
            ("option of the huber loss", "detla", ["delta"]),
        ),
        (
            "segmentation",
            {"loss_options": {"smoothing": 1}},
            ("option of the cross_entropy loss", "smoothing", ["label_smoothing"]),
        ),
    ],
)
def test_unknown_names(kind, options, unknown):
    with pytest.raises(UnknownNameError) as caught:
        make_task("mine", kind, 1 if kind == "depth" else 2, **options)
    assert str(caught.value) == str(UnknownNameError(*unknown))


@pytest.mark.parametrize(
    ("arguments", "classes", "message"),
    [
        (("x", "depth", 2), (), "1, as its kind `depth` asks for, but got 2"),
        (("x", "normals", 1), (), "3, as its kind `normals` asks for, but got 1"),
        (("x", "segmentation", 1), (), "at least 2, but got 1"),
        (("x", "regression", 0), (), "at least 1, but got 0"),
        (("x", "segmentation", 3), ("a", "b"), "2, as many as its `classes`, but got 3"),
    ],
)
def test_refuses_another_number_of_outputs(arguments, classes, message):
    with pytest.raises(ValueError) as caught:
        make_task(*arguments, classes=classes)
    assert str(caught.value) == f"Expected `out_channels` of task `x` to be {message}."


@pytest.mark.parametrize("name", ["", "a.b"])
def test_refuses_names_that_cannot_name_a_module(name):
    with pytest.raises(ValueError) as caught:
        make_task(name, "depth", 1)
    assert str(caught.value) == (
        f"Expected the name of a task to be non-empty and without dots, but got `{name}`."
    )
