import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from lomt.deploy.timing_export import export_for_timing, timing_feed
from lomt.errors import UnsupportedLayerError


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.embedding = nn.Embedding(5, 3)

    def forward(self, features, place):
        return {"sum": self.layer(features) + self.embedding(place), "parts": (features * 2,)}


class Undecided(nn.Module):
    def forward(self, images):
        return images * 2 if images.sum().item() > 0 else images.flatten()


def run(path, feed):
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, dict(feed))


@pytest.mark.parametrize(
    "is_named",
    [pytest.param(False, marks=pytest.mark.slow), True],
    ids=["positional", "by name"],
)
def test_several_inputs_and_nested_outputs_are_exported(is_named, tmp_path):
    torch.manual_seed(0)
    model = TwoInputs()
    features, place = torch.rand(2, 4), torch.tensor([1, 4])
    inputs = {"place": place, "features": features} if is_named else (features, place)
    path = export_for_timing(model, inputs, tmp_path / "model.onnx")
    feed = timing_feed(inputs)
    assert list(feed) == (["place", "features"] if is_named else ["input0", "input1"])
    total, doubled = run(path, feed)
    np.testing.assert_allclose(total, model(features, place)["sum"].detach().numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(doubled, 2 * features.numpy())


def test_the_model_is_left_as_it_is_whatever_its_type_and_mode(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Dropout(0.5)).double()
    images = torch.rand(1, 3, 4, 4, dtype=torch.float64)
    path = export_for_timing(model, images, tmp_path / "model.onnx")
    assert model.training
    assert next(model.parameters()).dtype == torch.float64
    assert next(model.parameters()).requires_grad
    (output,) = run(path, timing_feed(images))
    np.testing.assert_allclose(output, model.eval()(images).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_what_cannot_be_exported_is_one_error(tmp_path):
    text = (
        r"Expected the model to be expressible in ONNX, to be timed in onnxruntime, but got: .*budget of MACs"
    )
    with pytest.raises(UnsupportedLayerError, match=text):
        export_for_timing(Undecided(), torch.rand(1, 3, 4, 4), tmp_path / "model.onnx")
