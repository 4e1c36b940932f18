import pytest

from lomt.branching import cost_factors, layer_costs
from lomt.errors import UnknownNameError
from lomt.models import BackboneSpec, create_backbone, list_layers

SIZE = (32, 48)


@pytest.fixture(scope="module")
def backbone():
    return create_backbone(BackboneSpec("test_resnet"))


def test_macs_are_cumulative(backbone):
    layers = list_layers(backbone, SIZE)

    assert layer_costs(backbone, layers, SIZE) == {layer.name: layer.macs for layer in layers}


def test_milliseconds_are_measured_and_never_fall(backbone):
    layers = list_layers(backbone, SIZE)
    costs = list(layer_costs(backbone, layers, SIZE, "milliseconds").values())

    assert costs[0] > 0
    assert costs == sorted(costs)


def test_branch_beside_the_main_path_costs_no_less_than_what_comes_before(backbone):
    layers = list_layers(backbone, SIZE, "conv")
    costs = list(layer_costs(backbone, layers, SIZE).values())

    assert costs == sorted(costs)


def test_unknown_cost_is_named(backbone):
    with pytest.raises(UnknownNameError, match="Unknown cost `mac`, did you mean `macs`"):
        layer_costs(backbone, list_layers(backbone, SIZE), SIZE, "mac")


def test_factors_are_powers_of_the_share():
    assert cost_factors({"a": 1.0, "b": 4.0, "c": 16.0}) == {"a": 0.25, "b": 0.5, "c": 1.0}
    assert cost_factors({"a": 1.0, "b": 4.0}, exponent=0) == {"a": 1.0, "b": 1.0}
