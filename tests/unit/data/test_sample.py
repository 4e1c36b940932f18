import pytest

from lomt.data import TARGET_KINDS, TargetSpec
from lomt.errors import UnknownNameError


@pytest.mark.parametrize(
    ("spec", "out_channels", "is_dense"),
    [
        (TargetSpec("t", "segmentation", classes=("a", "b", "c")), 3, True),
        (TargetSpec("t", "depth", channels=7), 1, True),
        (TargetSpec("t", "normals"), 3, True),
        (TargetSpec("t", "edges"), 1, True),
        (TargetSpec("t", "keypoints", channels=4), 4, True),
        (TargetSpec("t", "classification", classes=("a", "b")), 2, False),
        (TargetSpec("t", "multilabel", classes=("a", "b", "c", "d")), 4, False),
        (TargetSpec("t", "regression", channels=2), 2, False),
    ],
    ids=TARGET_KINDS,
)
def test_out_channels(spec, out_channels, is_dense):
    assert spec.out_channels == out_channels
    assert spec.is_dense is is_dense


def test_every_kind_is_the_same_as_in_tasks():
    from typing import get_args

    tasks = pytest.importorskip("lomt.tasks")
    assert get_args(tasks.TaskKind) == TARGET_KINDS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "image", "kind": "depth"}, "Expected `name` of a target to be other than `image`"),
        (
            {"name": "t", "kind": "segmentation"},
            "Expected `classes` of target `t` \\(segmentation\\) not to be empty",
        ),
        (
            {"name": "t", "kind": "classification", "classes": ("a", "a")},
            "Expected `classes` of target `t` to be all different",
        ),
        (
            {"name": "t", "kind": "regression", "channels": 0},
            "Expected `channels` of target `t` to be at least 1, but got 0",
        ),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        TargetSpec(**arguments)


def test_unknown_kind_names_the_nearest(monkeypatch):
    # a wrong literal does not pass the run-time type check, so the check itself is called
    spec = object.__new__(TargetSpec)
    for name, value in {"name": "t", "kind": "dept", "classes": (), "channels": 1}.items():
        object.__setattr__(spec, name, value)
    with pytest.raises(UnknownNameError, match="Unknown target kind `dept`, did you mean `depth`"):
        spec.__post_init__()
