import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lomt.checksum import sha256_of
from lomt.errors import ArtifactError
from lomt.models import BackboneSpec, DecoderSpec, ModelSpec, load_model, save_model

SPEC = ModelSpec(
    backbone=BackboneSpec("mobilenetv3_small_050"),
    decoders={"depth": DecoderSpec("aspp", width=4), "scene": DecoderSpec("classifier")},
    out_channels={"depth": 1, "scene": 3},
    dense={"depth": True, "scene": False},
    branch_points={"depth": "blocks.1.1", "scene": "blocks.2.0"},
)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = SPEC.build()
    model(torch.randn(4, 3, 32, 32))  # moves the running statistics off their initial values
    return model.eval()


@pytest.fixture
def saved(model, tmp_path):
    return save_model(model, tmp_path / "dense")


def test_another_process_computes_the_same(model, saved, tmp_path):
    images = torch.randn(2, 3, 32, 48)
    save_file({"images": images}, tmp_path / "images.safetensors")
    script = (
        "import sys, torch; from lomt.models import load_model\n"
        "from safetensors.torch import load_file, save_file\n"
        "torch.set_num_threads(1)\n"
        "images = load_file(sys.argv[2])['images']\n"
        "save_file(dict(load_model(sys.argv[1])(images)), sys.argv[3])"
    )
    paths = [str(saved), str(tmp_path / "images.safetensors"), str(tmp_path / "outputs.safetensors")]
    root = str(Path(__file__).resolve().parents[3])
    subprocess.run([sys.executable, "-c", script, *paths], check=True, env={**os.environ, "PYTHONPATH": root})

    outputs = load_file(tmp_path / "outputs.safetensors")

    expected = model(images)
    assert set(outputs) == {"depth", "scene"}
    assert all(torch.equal(value, expected[task]) for task, value in outputs.items())


def test_loading_keeps_spec_and_random_state_and_gives_eval_mode(model, saved):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)

    loaded = load_model(str(saved))

    assert torch.equal(torch.rand(3), expected)
    assert loaded.spec == model.spec
    assert not loaded.training


def test_saving_replaces_and_leaves_no_other_file(model, saved):
    other = SPEC.build()

    save_model(other, saved)

    assert sorted(path.name for path in saved.iterdir()) == ["model.safetensors", "structure.json"]
    assert torch.equal(load_model(saved).decoders["scene"].head.weight, other.decoders["scene"].head.weight)


def test_a_failed_save_leaves_the_old_file(model, saved, monkeypatch):
    before = (saved / "model.safetensors").read_bytes()

    def fail(entries, path, metadata):
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("lomt.models.storage.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        save_model(model, saved)

    assert (saved / "model.safetensors").read_bytes() == before
    assert len(list(saved.iterdir())) == 2


def test_structure_can_be_read_by_people(saved):
    structure = json.loads((saved / "structure.json").read_text())

    assert structure["schema"] == 1
    assert structure["model"]["branch_points"] == SPEC.branch_points
    assert structure["weights"] == {
        "file": "model.safetensors",
        "sha256": sha256_of(saved / "model.safetensors"),
    }


def test_no_directory(tmp_path):
    with pytest.raises(
        ArtifactError, match=r"Expected a saved model with .*structure.json, but there is no such file"
    ):
        load_model(tmp_path / "none")


def test_no_weights(saved):
    (saved / "model.safetensors").unlink()

    with pytest.raises(
        ArtifactError, match=r"Expected the weights at .*model.safetensors, but there is no such file"
    ):
        load_model(saved)


def test_changed_weights(saved):
    content = bytearray((saved / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (saved / "model.safetensors").write_bytes(content)

    with pytest.raises(
        ArtifactError, match=r"to have the SHA-256 .* the file was changed, or a save was interrupted"
    ):
        load_model(saved)


def _edit(saved, change):
    structure = json.loads((saved / "structure.json").read_text())
    change(structure)
    (saved / "structure.json").write_text(json.dumps(structure))


def _put_weights(saved, content):
    (saved / "model.safetensors").write_bytes(content)
    _edit(saved, lambda s: s["weights"].update(sha256=sha256_of(saved / "model.safetensors")))


def test_weights_of_another_kind_with_the_right_checksum(saved):
    _put_weights(saved, b"no safetensors here, in spite of the checksum")

    with pytest.raises(
        ArtifactError, match=r"Expected .*model.safetensors to be a safetensors file, but got"
    ):
        load_model(saved)


def test_weights_and_structure_of_different_models(saved):
    _edit(saved, lambda s: s["model"]["out_channels"].update(scene=4))

    message = (
        r"to fit structure.json beside it, but got 2 keys of another shape: decoders.scene.head.bias \(3,\)"
    )
    with pytest.raises(ArtifactError, match=message):
        load_model(saved)


def test_damaged_structure(saved):
    (saved / "structure.json").write_text('{"schema": 1')

    with pytest.raises(ArtifactError, match=r"Expected .*structure.json to be readable JSON, but got"):
        load_model(saved)


def test_structure_of_another_schema(saved):
    _edit(saved, lambda s: s.update(schema=2))

    message = (
        r"to have schema 1, but got 2. Load it with the version of lomt that wrote it, and save it again"
    )
    with pytest.raises(ArtifactError, match=message):
        load_model(saved)


def test_structure_without_checksum(saved):
    _edit(saved, lambda s: s["weights"].pop("sha256"))

    with pytest.raises(
        ArtifactError, match=r"to have `model` and `weights.sha256`, but got \['lomt', 'model'"
    ):
        load_model(saved)


@pytest.mark.parametrize(
    "change",
    [lambda s: s["model"].pop("dense"), lambda s: s["model"]["branch_points"].update(depth="blocks.9")],
    ids=["missing_key", "unknown_layer"],
)
def test_structure_that_describes_no_model(saved, change):
    _edit(saved, change)

    with pytest.raises(ArtifactError, match=r"Expected .*structure.json to describe a model, but got"):
        load_model(saved)
