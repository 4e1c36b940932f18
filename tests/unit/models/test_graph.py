import pytest
import torch
from torch import nn

from lomt.errors import UnsupportedLayerError
from lomt.models import truncate
from lomt.models.graph import is_whole, sources, trace
from lomt.models.measure import without_data


class _WritesInPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, images):
        features = self.conv(images)
        features.mul_(2)
        return features


class _Branches(_WritesInPlace):
    def forward(self, images):
        return self.conv(images) if images.mean() > 0 else images


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (_WritesInPlace, "its forward writes to a tensor in place by `mul_`"),
        (
            _Branches,
            "torch.fx: TraceError: symbolically traced variables cannot be used as inputs",
        ),
    ],
    ids=["hidden_write", "control_flow"],
)
def test_a_model_without_graph_and_without_wrapper_is_refused(model, reason):
    with pytest.raises(UnsupportedLayerError, match=r"Expected a backbone that torch\.fx can cut") as caught:
        truncate(model(), ["conv"])
    assert reason in str(caught.value)


class _MakesTensors(_WritesInPlace):
    """Its forward makes a tensor from numbers, and reads a buffer that is not saved."""

    def __init__(self):
        super().__init__()
        self.register_buffer("offset", torch.full((1,), 3.0), persistent=False)

    def forward(self, images):
        return self.conv(images * torch.tensor([2.0]) + self.offset * 2)


def test_tensors_made_in_forward_move_with_the_module_and_are_not_saved():
    whole = _MakesTensors()
    images = torch.randn(1, 3, 5, 5)

    cut = truncate(whole, ["conv"])

    assert torch.equal(cut(images)["conv"], whole(images))
    assert set(cut.state_dict()) == {"conv.weight", "conv.bias"}
    assert not any(name.startswith("_tensor_constant") for name in vars(whole))
    assert cut.double()(images.double())["conv"].dtype == torch.float64


def test_outputs_are_what_modules_return():
    model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()), nn.Identity())

    traced = trace(without_data(model), training=False)

    assert traced.outputs["0"] is traced.outputs["0.1"]
    assert traced.outputs["0.0"] in sources(traced.outputs["1"])
    assert traced.outputs["1"] not in sources(traced.outputs["0"])


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.Conv2d(1, 1, 1), True),
        (nn.MultiheadAttention(4, 1), True),
        (nn.Sequential(nn.ReLU()), False),
        (_WritesInPlace(), False),
    ],
    ids=["layer", "layer_with_parts", "container", "model"],
)
def test_layers_stay_whole(module, expected):
    assert is_whole(module) is expected
