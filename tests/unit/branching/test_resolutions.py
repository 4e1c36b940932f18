import pytest

from lomt.branching import next_finer
from lomt.errors import UnknownNameError
from lomt.models import Layer


def layer(name, reduction, kind="block"):
    return Layer(name, kind, 8, reduction, 1, 1, False)


LAYERS = [
    layer("stem", 2, "conv"),
    layer("a.0", 2),
    layer("b.0", 4),
    layer("b.1", 4),
    layer("b.1.conv", 4, "conv"),
    layer("c.0", 8),
    layer("c.1", 8),
]


@pytest.mark.parametrize(("name", "finer"), [("c.1", "b.1"), ("b.1", "a.0"), ("a.0", None)])
def test_deepest_block_of_the_finer_map_is_taken(name, finer):
    assert next_finer(LAYERS, name) == finer


def test_unknown_layer_is_named():
    with pytest.raises(UnknownNameError, match="Unknown layer `d.0`"):
        next_finer(LAYERS, "d.0")
