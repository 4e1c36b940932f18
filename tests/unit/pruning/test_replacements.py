import json

import pytest
import torch

from lomt.errors import ArtifactError
from lomt.pruning.replacements import Constant, Skip, build_replacement, output_size

CONSTANT = {
    "channels": 3,
    "layout": "first",
    "window": [],
    "spread": "full",
    "dtype": "float64",
    "values": [1.0, -2.0, 0.1],
}
SKIP = {"channels": 3, "layout": "first", "window": [], "is_writable": False}
VALUES = torch.tensor([1.0, -2.0, 0.1], dtype=torch.float64)


@pytest.mark.parametrize("spread", ["small", "expanded", "full"])
def test_a_constant_has_its_value_everywhere(spread):
    module = build_replacement("constant", json.loads(json.dumps({**CONSTANT, "spread": spread})))
    features = torch.randn(2, 7, 4, 5, dtype=torch.float64)

    result = module(features, "anything", other=1)

    assert result.shape == ((1, 3, 1, 1) if spread == "small" else (2, 3, 4, 5))
    assert torch.equal(result.expand(2, 3, 4, 5), VALUES.reshape(1, 3, 1, 1).expand(2, 3, 4, 5))


def test_a_full_constant_may_be_written_into():
    module = build_replacement("constant", CONSTANT)
    result = module(torch.zeros(2, 7, 4, 5, dtype=torch.float64))

    result += 1

    assert torch.equal(module.value, VALUES)


def test_one_value_may_stand_for_all_channels():
    module = build_replacement("constant", {**CONSTANT, "values": [0.5]})

    assert torch.equal(module.value, torch.full((3,), 0.5, dtype=torch.float64))


def test_a_constant_is_saved_and_follows_the_features_type():
    module = build_replacement("constant", CONSTANT)

    assert list(module.state_dict()) == ["value"]
    assert module(torch.zeros(1, 7, 2, 2)).dtype == torch.float32


def test_channels_may_stand_last():
    tokens = torch.zeros(2, 9, 7, dtype=torch.float64)

    assert torch.equal(Constant(VALUES, "last")(tokens), VALUES.expand(2, 9, 3))
    assert Constant(VALUES, "last", spread="small")(tokens).shape == (1, 1, 3)
    assert Skip(4, "last")(tokens).shape == (2, 9, 4)
    assert Constant(VALUES, "last")(torch.zeros(5, 7)).shape == (5, 3)


@pytest.mark.parametrize("size", [7, 8, 9, 31])
@pytest.mark.parametrize(
    "kernel, stride, padding, dilation", [(3, 2, 1, 1), (2, 2, 0, 1), (3, 1, 2, 2), (5, 3, 1, 1)]
)
def test_sizes_are_those_of_a_convolution(size, kernel, stride, padding, dilation):
    convolution = torch.nn.Conv2d(2, 4, kernel, stride, padding, dilation)
    features = torch.zeros(1, 2, size, size + 1)
    window = [[kernel, stride, 2 * padding, dilation]] * 2
    expected = convolution(features).shape

    assert output_size(size, window[0]) == expected[2]
    assert Skip(4, "first", window)(features).shape == expected
    assert Constant(torch.zeros(4), "first", window)(features).shape == expected


def test_a_skip_hands_out_zeros_that_need_no_memory():
    result = build_replacement("skip", SKIP)(torch.full((2, 7, 4, 5), torch.nan))

    assert result.shape == (2, 3, 4, 5)
    assert not result.any()
    assert result.untyped_storage().nbytes() == 4


def test_a_writable_skip_has_memory_of_its_own():
    features = torch.randn(2, 7, 4, 5)
    before = features.clone()

    result = build_replacement("skip", {**SKIP, "is_writable": True})(features).add_(1)

    assert torch.equal(result, torch.ones(2, 3, 4, 5))
    assert torch.equal(features, before)


@pytest.mark.parametrize(
    "kind, options, message",
    [
        ("magic", {}, "Expected a replacement to be one of identity, skip, constant, but got `magic`."),
        ("identity", {"size": 1}, "Expected the options of replacement `identity` to be none, but got size."),
        (
            "skip",
            {"channels": 3},
            "Expected the options of replacement `skip` to be channels, is_writable, layout, window, but got channels.",
        ),
        (
            "skip",
            {**SKIP, "channels": 0},
            "Expected option `channels` of replacement `skip` to be a positive integer, but got 0.",
        ),
        (
            "skip",
            {**SKIP, "is_writable": 1},
            "Expected option `is_writable` of replacement `skip` to be true or false, but got 1.",
        ),
        (
            "skip",
            {**SKIP, "window": [[3, 0, 2, 1]]},
            "Expected option `window` of replacement `skip` to be lists of four integers, but got [[3, 0, 2, 1]].",
        ),
        (
            "constant",
            {**CONSTANT, "layout": []},
            "Expected option `layout` of replacement `constant` to be first or last, but got [].",
        ),
        (
            "constant",
            {**CONSTANT, "spread": "wide"},
            "Expected option `spread` of replacement `constant` to be one of small, expanded, full, but got wide.",
        ),
        (
            "constant",
            {**CONSTANT, "dtype": "load"},
            "Expected option `dtype` of replacement `constant` to be one of float64, float32, float16, bfloat16, "
            "but got load.",
        ),
        (
            "constant",
            {**CONSTANT, "values": [1.0, "2"]},
            "Expected option `values` of replacement `constant` to be 3 numbers, or one, but got [1.0, '2'].",
        ),
    ],
)
def test_options_that_make_no_sense(kind, options, message):
    with pytest.raises(ArtifactError) as caught:
        build_replacement(kind, options)

    assert str(caught.value) == message
