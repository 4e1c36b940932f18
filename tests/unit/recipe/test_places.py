"""Relative paths of data and weights."""

import re

import pytest

from lomt.errors import ArtifactError, DataError
from lomt.recipe import BackboneSettings, DataSettings, find_data, find_weights


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Return $LOMT_DATA, $LOMT_WEIGHTS and the working directory, all empty."""
    folders = {}
    for name in ("data", "weights", "here"):
        folders[name] = tmp_path / name
        folders[name].mkdir()
    monkeypatch.setenv("LOMT_DATA", str(folders["data"]))
    monkeypatch.setenv("LOMT_WEIGHTS", str(folders["weights"]))
    monkeypatch.chdir(folders["here"])
    return folders


def _data(root):
    return DataSettings(kind="folder", root=root, size=(8, 8))


def _weights(weights):
    return BackboneSettings(name="resnet18", weights=weights)


def test_data_is_looked_up_in_the_environment_then_here(places):
    (places["here"] / "set").mkdir()
    assert find_data(_data("set")).resolve() == places["here"] / "set"
    (places["data"] / "set").mkdir()
    assert find_data(_data("set")) == places["data"] / "set"


def test_absolute_paths_are_taken_as_they_are(places):
    assert find_data(_data(str(places["here"]))) == places["here"]
    file = places["here"] / "w.safetensors"
    file.touch()
    assert find_weights(_weights(str(file))) == file


def test_weights_are_looked_up_in_three_places(places):
    found = []
    for place in ("here", "data", "weights"):
        (places[place] / "w.safetensors").touch()
        found.append(find_weights(_weights("w.safetensors")).resolve().parent.name)
    assert found == ["here", "data", "weights"]


@pytest.mark.parametrize("weights", [None, "pretrained"])
def test_other_weights_are_no_files(weights):
    assert find_weights(_weights(weights)) == weights


def test_missing_data_names_the_places(places):
    message = (
        f"Expected `data.root` to be a folder, but there is none at {places['data'] / 'set'} or set. "
        "Set LOMT_DATA to the folder that holds it, or give --set data.root=PATH."
    )
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        find_data(_data("set"))


def test_data_without_a_root_are_refused():
    with pytest.raises(DataError, match=r"^Expected `data\.root` to be a dataset folder, but got null\.$"):
        find_data(_data(None))


def test_missing_weights_name_the_places(monkeypatch, tmp_path):
    monkeypatch.delenv("LOMT_DATA", raising=False)
    monkeypatch.setenv("LOMT_WEIGHTS", str(tmp_path))
    message = (
        "Expected `model.backbone.weights` to be a file, but there is none at "
        f"{tmp_path / 'w.safetensors'} or w.safetensors. Set LOMT_WEIGHTS to the folder that holds it, or "
        "give --set model.backbone.weights=null to start from random weights."
    )
    with pytest.raises(ArtifactError, match=f"^{re.escape(message)}$"):
        find_weights(_weights("w.safetensors"))
