import pytest

from lomt.branching import layers_apart
from lomt.errors import UnknownNameError

LAYERS = ("a", "b", "c")


def test_deeper_is_positive():
    assert layers_apart({"x": "a", "y": "c", "z": "b"}, {"x": "c", "y": "b", "z": "b"}, LAYERS) == {
        "x": 2,
        "y": -1,
        "z": 0,
    }


def test_unknown_layer_and_missing_task_are_named():
    with pytest.raises(UnknownNameError, match="Unknown layer of task `x` `d`"):
        layers_apart({"x": "a"}, {"x": "d"}, LAYERS)
    with pytest.raises(UnknownNameError, match="Unknown task `x`"):
        layers_apart({"x": "a"}, {"y": "a"}, LAYERS)
