import pytest
import torch
from safetensors.torch import save_file

from lomt.errors import ArtifactError
from lomt.models.factory import Factory, FactoryError
from lomt.pruning.origin import origin_of
from lomt.pruning.source import open_model
from lomt.pruning.storage import save

FACTORY = "from torch import nn\ndef build(width=3):\n    return nn.Linear(2, width)\n"


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    (tmp_path / "nets.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)


def test_a_factory_with_weights():
    weights = {"weight": torch.rand(4, 2), "bias": torch.rand(4)}
    save_file(weights, "w.safetensors")

    model = open_model("nets.py:build", {"width": 4}, "w.safetensors")

    assert torch.equal(model.weight, weights["weight"])
    assert not model.training
    assert origin_of(model).factory == Factory("nets.py:build", {"width": 4})


def test_a_saved_model(tmp_path):
    model = open_model("nets.py:build")
    save(model, "saved")

    again = open_model("saved")

    assert torch.equal(again.weight, model.weight)
    assert origin_of(again).factory == Factory(f"{tmp_path}/nets.py:build", {})


def test_a_saved_model_has_no_arguments():
    save(open_model("nets.py:build"), "saved")

    with pytest.raises(
        FactoryError, match="Expected no `--option` for the saved model saved, but got width."
    ):
        open_model("saved", {"width": 3})


def test_weights_of_another_model():
    save_file({"weight": torch.rand(9, 2)}, "w.safetensors")

    with pytest.raises(
        ArtifactError, match=r"w.safetensors to hold the weights of the model, but got 1 missing"
    ):
        open_model("nets.py:build", weights="w.safetensors")


def test_a_directory_without_a_model(tmp_path):
    (tmp_path / "empty").mkdir()

    with pytest.raises(
        ArtifactError, match=r"Expected a saved model with empty/structure.json, but there is no"
    ):
        open_model("empty")
