import pytest
import torch
from safetensors import SafetensorError
from torch import nn

from lomt.errors import ArtifactError
from lomt.training.checkpoint import (
    TrainingState,
    load_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)


def test_state_comes_back_as_it_was(tmp_path):
    path = tmp_path / "train.checkpoint"
    state = TrainingState(
        {"model.a": torch.randn(3), "b": torch.arange(2)}, {"epoch": 3, "best": float("inf")}
    )

    save_checkpoint(path, state)
    again = load_checkpoint(path)

    assert again is not None
    assert again.facts == state.facts
    assert torch.equal(again.part("model")["a"], state.tensors["model.a"])
    assert [p.name for p in tmp_path.iterdir()] == ["train.checkpoint"]


def test_no_file_is_no_state(tmp_path):
    assert load_checkpoint(tmp_path / "none") is None


def test_damaged_file_is_named(tmp_path):
    path = tmp_path / "train.checkpoint"
    path.write_bytes(b"half a file")

    with pytest.raises(
        ArtifactError, match=r"train\.checkpoint is damaged .* Delete it to start this stage anew"
    ):
        load_checkpoint(path)


def test_failed_write_keeps_the_old_checkpoint(tmp_path):
    path = tmp_path / "train.checkpoint"
    save_checkpoint(path, TrainingState({"a": torch.ones(1)}, {"epoch": 1}))
    with pytest.raises(TypeError):
        save_checkpoint(path, TrainingState({"a": torch.ones(1)}, {"epoch": object()}))

    kept = load_checkpoint(path)
    assert kept is not None
    assert kept.facts == {"epoch": 1}


def test_full_disk_is_an_os_error_and_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "train.checkpoint"
    save_checkpoint(path, TrainingState({"a": torch.ones(1)}, {"epoch": 1}))

    def no_space(tensors, target, header):
        target.write_bytes(b"half")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("lomt.training.checkpoint.save_file", no_space)
    with pytest.raises(OSError, match=r"Could not write checkpoint .*train\.checkpoint.*No space left"):
        save_checkpoint(path, TrainingState({"a": torch.zeros(1)}, {"epoch": 2}))

    kept = load_checkpoint(path)
    assert kept is not None
    assert kept.facts == {"epoch": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["train.checkpoint"]


def test_optimizer_goes_on_as_if_never_stopped():
    torch.manual_seed(0)
    first = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    second = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    second.load_state_dict(first.state_dict())
    optimizers = [torch.optim.AdamW(m.parameters(), lr=0.1) for m in (first, second)]
    for parameter in first.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizers[0].step()
    names = {p: n for m in (first, second) for n, p in m.named_parameters()}

    second.load_state_dict(first.state_dict())
    restore_optimizer(optimizers[1], names, optimizer_tensors(optimizers[0], names))
    for mine, other in zip(first.parameters(), second.parameters(), strict=True):
        mine.grad = torch.randn_like(mine)
        other.grad = mine.grad.clone()
    for optimizer in optimizers:
        optimizer.step()

    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    moment = optimizers[1].state[second.weight]["exp_avg"]
    assert moment.stride() == second.weight.stride()
