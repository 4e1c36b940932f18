import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.layers import Conv2dSame
from torch import nn

from lomt.deploy.image_sizes import at_size, other_size, refusal


@given(st.integers(1, 2000), st.integers(1, 2000))
def test_the_other_size_is_another_and_tells_height_from_width(height, width):
    other = other_size(height, width)
    assert other[0] != height and other[1] != width and other[0] != other[1]
    assert other[0] % 32 == other[1] % 32 == 0
    if min(height, width) >= 64:
        assert 0.5 <= other[0] * other[1] / (height * width) <= 2.5


def test_images_are_interpolated():
    images = torch.rand(2, 3, 8, 12)
    assert at_size(images, (8, 12)) is images
    assert at_size(images, (5, 7)).shape == (2, 3, 5, 7)


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (nn.Conv2d(3, 4, 3), ""),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 12, 2)),
            "the model takes no images of 32x64: RuntimeError: ",
        ),
    ],
    ids=["convolution", "linear layer"],
)
def test_why_a_size_is_refused_is_said(model, text):
    found = refusal(model, torch.rand(1, 3, 8, 12), (32, 64))
    assert found.startswith(text) and bool(found) == bool(text)


def test_padding_that_depends_on_the_size_is_named():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), Conv2dSame(4, 4, 3, stride=2))
    assert refusal(model, torch.rand(1, 3, 8, 12), (32, 64)) == (
        "the padding of layer `1` depends on the image size (TensorFlow's `same`)"
    )
