import pytest
import torch
from torch import nn

from lomt.models.graph import NotTraceableError, trace
from lomt.models.measure import image_size, is_map, measure, reduction_of, without_data


@pytest.mark.parametrize(
    ("height", "rows", "expected"), [(128, 16, 8), (224, 4, 64), (518, 37, 14), (299, 35, 8), (30, 30, 1)]
)
def test_reduction(height, rows, expected):
    assert reduction_of((height, height), (1, 8, rows, rows)) == expected


@pytest.mark.parametrize(
    ("shape", "expected"), [((1, 8, 2, 1), True), ((1, 8, 1, 1), False), ((1, 8, 4), False), (None, False)]
)
def test_maps_have_pixels(shape, expected):
    assert is_map(shape) is expected


def test_copies_without_data_have_the_same_form():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
    model[0].weight.requires_grad_(False)

    twin = without_data(model)

    assert {key: (value.shape, value.device.type) for key, value in twin.state_dict().items()} == {
        key: (value.shape, "meta") for key, value in model.state_dict().items()
    }
    assert [p.requires_grad for p in twin.parameters()] == [p.requires_grad for p in model.parameters()]
    assert not twin.training
    assert model[0].weight.device.type == "cpu"


def test_overwritten_are_the_tensors_changed_in_place_later():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Identity(), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 1))
    twin = without_data(model)
    traced = trace(twin, training=False)

    seen = measure(twin, traced.graph, (4, 4), counts=True)

    # The identity puts out the convolution's own tensor.
    assert {str(node.target) for node in seen.overwritten} == {"0", "1"}
    assert [seen.macs[traced.outputs[name]] for name in "0123"] == [12 * 16, 0, 0, 16 * 16]
    assert seen.shapes[traced.outputs["3"]] == (1, 4, 4, 4)


def test_nothing_is_counted_unless_asked():
    twin = without_data(nn.Sequential(nn.Conv2d(3, 4, 1)))

    seen = measure(twin, trace(twin, training=False).graph, (4, 4))

    assert set(seen.macs.values()) == {0}


def test_batch_norm_keeps_shapes():
    twin = without_data(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)))
    traced = trace(twin, training=True)

    seen = measure(twin, traced.graph, (4, 6), training=True, batch=2)

    assert seen.shapes[traced.outputs["1"]] == (2, 4, 4, 6)


def test_images_too_small_for_the_graph():
    twin = without_data(nn.Sequential(nn.Conv2d(3, 4, 5)))

    with pytest.raises(NotTraceableError, match="RuntimeError: Calculated padded input size"):
        measure(twin, trace(twin, training=False).graph, (4, 4))


def test_image_size_is_the_models_own():
    model = nn.Module()
    assert image_size(model) == (224, 224)
    model.pretrained_cfg = {"input_size": (3, 96, 64)}
    assert image_size(model) == (96, 64)
    model.patch_embed = nn.Module()
    model.patch_embed.img_size = (32, 48)
    assert image_size(model) == (32, 48)


def test_the_random_state_is_left_alone():
    twin = without_data(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Dropout(0.5)))
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)

    measure(twin, trace(twin, training=True).graph, (4, 4), training=True)

    assert torch.equal(torch.rand(2), expected)
