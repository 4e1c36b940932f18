import inspect

import pytest
import timm
import torch
from torch import nn

from lomt.errors import UnknownNameError, UnsupportedLayerError
from lomt.structure import (
    LayerGroups,
    channel_groups,
    expand_groups,
    group_view,
    squared_norms,
    zero_groups,
)
from tests.reference.prox import groups_of

# out, in, kernel, conv_groups
LAYERS = {
    "dense": (6, 4, 3, 1),
    "pointwise": (6, 4, 1, 1),
    "grouped": (6, 4, 3, 2),
    "depthwise": (4, 4, 3, 4),
    "depthwise with multiplier": (8, 4, 3, 4),
}
AXES = ("in", "out")


def conv(layer, memory_format=torch.contiguous_format):
    torch.manual_seed(0)
    out, inputs, kernel, conv_groups = LAYERS[layer]
    return nn.Conv2d(inputs, out, kernel, groups=conv_groups).to(memory_format=memory_format)


@pytest.fixture(params=LAYERS)
def layer(request):
    return request.param


def test_the_papers_network_has_the_papers_groups():
    with torch.device("meta"):
        backbone = timm.create_model("resnet50d", stem_width=64)
    listed = channel_groups(backbone)
    assert len(listed) == 55
    assert sum(weight.numel() for _, weight, _ in listed) == 23_578_304
    assert sum(groups.count for _, _, groups in listed) == 22_787


@pytest.mark.parametrize(
    ("layer", "axis", "count", "size"),
    [
        ("dense", "in", 4, 6 * 9),
        ("dense", "out", 6, 4 * 9),
        ("pointwise", "in", 4, 6),
        ("grouped", "in", 4, 3 * 9),
        ("grouped", "out", 6, 2 * 9),
        ("depthwise", "in", 4, 9),
        ("depthwise with multiplier", "in", 4, 2 * 9),
        ("depthwise with multiplier", "out", 8, 9),
    ],
)
def test_counts_and_sizes(layer, axis, count, size):
    module = conv(layer)
    ((name, weight, groups),) = channel_groups(module, axis=axis)
    assert name == "weight"
    assert weight is module.weight
    assert groups == LayerGroups("", axis, count, size, LAYERS[layer][3])


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("axis", AXES)
def test_squared_norms_are_those_of_the_groups_entries(layer, axis, memory_format):
    module = conv(layer, memory_format)
    flat = module.weight.detach().contiguous().flatten()
    expected = torch.stack(
        [flat[places].square().sum() for places in groups_of(module.weight, axis, module.groups)]
    )
    torch.testing.assert_close(squared_norms(module.weight.detach(), axis, module.groups), expected)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("axis", AXES)
def test_view_numbers_the_groups_and_shares_memory(layer, axis, memory_format):
    weight = conv(layer, memory_format).weight.detach()
    conv_groups = LAYERS[layer][3]
    view = group_view(weight, axis, conv_groups)
    summed = view.square().sum(dim=(1, 3)).flatten()
    torch.testing.assert_close(summed, squared_norms(weight, axis, conv_groups))
    view.zero_()
    assert not weight.any()


def test_view_of_scattered_memory_is_refused():
    weight = torch.rand(4, 6, 3, 3).transpose(0, 1)
    with pytest.raises(
        ValueError, match=r"Expected `weight` to be contiguous or channels-last, but got strides"
    ):
        group_view(weight, "in")


@pytest.mark.parametrize("axis", AXES)
def test_one_value_a_group_reaches_every_entry_of_it(layer, axis):
    weight = conv(layer).weight.detach()
    conv_groups = LAYERS[layer][3]
    groups = groups_of(weight, axis, conv_groups)
    factors = torch.arange(1.0, len(groups) + 1)
    expected = weight.clone().flatten()
    for factor, places in zip(factors, groups, strict=True):
        expected[places] *= factor
    scaled = weight * expand_groups(factors, weight, axis, conv_groups)
    torch.testing.assert_close(scaled.flatten(), expected)


@pytest.mark.parametrize("axis", AXES)
def test_zero_means_every_entry_and_exactly(layer, axis):
    weight = conv(layer).weight.detach()
    conv_groups = LAYERS[layer][3]
    first, second, *_ = groups_of(weight, axis, conv_groups)
    flat = weight.flatten()
    flat[first] = 0
    flat[second] = 0
    flat[second[-1]] = 1e-40
    weight = flat.view(weight.shape)
    expected = [True] + [False] * (len(zero_groups(weight, axis, conv_groups)) - 1)
    assert zero_groups(weight, axis, conv_groups).tolist() == expected


def test_input_groups_are_the_output_groups_of_the_transposed_weight():
    weight = conv("dense").weight.detach()
    torch.testing.assert_close(squared_norms(weight, "in"), squared_norms(weight.transpose(0, 1), "out"))


def test_half_precision_is_summed_in_float32():
    weight = torch.full((4096, 1), 1.0, dtype=torch.bfloat16)
    assert squared_norms(weight, "in").tolist() == [4096.0]


def test_names_carry_the_prefix_and_other_kinds_are_left_out():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(4, 2))
    assert [name for name, _, _ in channel_groups(model, prefix="backbone")] == ["backbone.0.weight"]
    named = channel_groups(model, kinds=(nn.Conv2d, nn.Linear))
    assert [(name, groups.name, groups.count, groups.size) for name, _, groups in named] == [
        ("0.weight", "0", 3, 4),
        ("2.weight", "2", 4, 2),
    ]


def test_a_shared_weight_is_listed_once():
    first, second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
    second.weight = first.weight
    assert [name for name, _, _ in channel_groups(nn.Sequential(first, second))] == ["0.weight"]


def test_a_parametrised_weight_is_listed_as_it_acts():
    class Doubled(nn.Module):
        def forward(self, weight):
            return 2 * weight

    module = nn.Conv2d(3, 4, 1)
    plain = module.weight.detach().clone()
    nn.utils.parametrize.register_parametrization(module, "weight", Doubled())
    ((_, weight, groups),) = channel_groups(module)
    torch.testing.assert_close(weight, 2 * plain)
    assert not weight.requires_grad
    assert groups.count == 3


def test_an_unknown_kind_is_refused():
    with pytest.raises(UnsupportedLayerError) as error:
        channel_groups(nn.Conv2d(3, 4, 1), kinds=(nn.ConvTranspose2d,))
    assert str(error.value) == (
        "Expected `kinds` to be layers with weights stored as (out, in, *kernel), but got ConvTranspose2d. "
        "Known are Conv1d, Conv2d, Conv3d, Linear and classes derived from them."
    )


def test_an_unknown_axis_is_refused():
    # Behind the shape checks, which already refuse it while tests run.
    list_groups = inspect.unwrap(channel_groups)
    with pytest.raises(UnknownNameError, match="Unknown axis `inn`, did you mean `in`"):
        list_groups(nn.Conv2d(3, 4, 1), axis="inn")
