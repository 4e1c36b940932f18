import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn

from lomt.errors import ArtifactError
from lomt.models.checkpoint_file import load_weights, read_checkpoint


def _model(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))


class Runs:
    def __reduce__(self):
        return print, ("executed",)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda entries: entries,
        lambda entries: {"state_dict": entries, "epoch": 3},
        lambda entries: {"model": entries, "optimizer": {"lr": 0.1}},
        lambda entries: {"model": {f"module.{key}": value for key, value in entries.items()}},
    ],
    ids=["plain", "state_dict", "model", "data_parallel"],
)
def test_torch_checkpoints(tmp_path, wrap):
    source, target = _model(0), _model(1)
    torch.save(wrap(source.state_dict()), tmp_path / "w.pt")

    load_weights(target, tmp_path / "w.pt")

    assert torch.equal(target[0].weight, source[0].weight)
    assert torch.equal(target[1].bias, source[1].bias)


def test_safetensors(tmp_path):
    source, target = _model(0), _model(1)
    save_file(source.state_dict(), tmp_path / "w.safetensors")

    load_weights(target, tmp_path / "w.safetensors")

    assert torch.equal(target[0].weight, source[0].weight)


def test_tied_weights_of_safetensors(tmp_path):
    source, target = _tied(0), _tied(1)
    save_model(source, str(tmp_path / "w.safetensors"))  # holds the shared tensor once

    load_weights(target, tmp_path / "w.safetensors")

    assert torch.equal(target[1].weight, source[0].weight)
    assert target[0].weight is target[1].weight


def _tied(seed):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    return model


def test_keys_that_differ_are_named(tmp_path):
    entries = _model(0).state_dict()
    entries["2.weight"] = entries.pop("1.weight")
    torch.save(entries, tmp_path / "w.pt")

    with pytest.raises(
        ArtifactError,
        match=r"w.pt to hold the weights of the model, but got 1 missing keys: 1.weight; "
        r"1 unexpected keys: 2.weight",
    ):
        load_weights(_model(1), tmp_path / "w.pt")


def test_no_file(tmp_path):
    with pytest.raises(ArtifactError, match=r"Expected weights at .*w.pt, but there is no such file"):
        read_checkpoint(tmp_path / "w.pt")


def test_objects_are_not_executed(tmp_path, capsys):
    torch.save({"state_dict": {}, "extra": Runs()}, tmp_path / "w.pt")

    with pytest.raises(ArtifactError, match=r"to hold weights only, but it has objects that would run code"):
        read_checkpoint(tmp_path / "w.pt")

    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_damaged_files(tmp_path, name):
    (tmp_path / name).write_bytes(b"PK\x03\x04 no archive")

    with pytest.raises(ArtifactError, match=r"Expected .*w\.\w+ to (be a|hold)"):
        read_checkpoint(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"epoch": 3, "lr": 0.1}, "other things under epoch, lr"),
        ([1, 2], "a list"),
        ({}, "nothing"),
        (_model(0).state_dict() | {"lr": 0.1}, "other things under lr"),
    ],
    ids=["no_weights", "list", "empty", "mixed"],
)
def test_files_without_weights(tmp_path, content, found):
    torch.save(content, tmp_path / "w.pt")

    with pytest.raises(ArtifactError, match=f"to hold tensors by name, .*, but got {found}"):
        read_checkpoint(tmp_path / "w.pt")
