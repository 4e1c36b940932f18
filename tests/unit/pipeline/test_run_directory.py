import json
import time

import psutil
import pytest

from lomt.atomic_file import write_text_atomically
from lomt.pipeline.run_directory import StageFolder


@pytest.fixture
def folder(tmp_path):
    folder = StageFolder(tmp_path / "dense", "abc")
    folder.prepare()
    return folder


def stamp(folder):
    return json.loads((folder.path / "stage.json").read_text())


def test_what_the_last_attempt_took_is_noted_and_no_part_of_the_key(folder):
    assert stamp(folder) == {"key": "abc", "finished": False}
    # The system counts what is held now and the peak with different delays.
    held = 0.9 * psutil.Process().memory_info().rss
    again = StageFolder(folder.path, "abc")
    time.sleep(0.02)

    again.finish()

    noted = stamp(folder)
    assert noted.keys() == {"key", "finished", "seconds_of_last_attempt", "peak_memory_bytes"}
    assert 0.02 <= noted["seconds_of_last_attempt"] < 10
    assert held <= noted["peak_memory_bytes"] < psutil.virtual_memory().total
    assert StageFolder(folder.path, "abc").is_finished
    assert not StageFolder(folder.path, "abd").is_finished


@pytest.mark.parametrize("way", ["drop_checkpoints", "finish"])
def test_checkpoints_and_halves_of_files_are_dropped(way, folder):
    for name in ("train.checkpoint", "depth/trial_1.checkpoint", ".model.safetensors.x1.partial"):
        write_text_atomically(folder.path / name, "")
    write_text_atomically(folder.path / "depth" / "sparsity.json", "{}")

    getattr(folder, way)()

    left = {path.relative_to(folder.path).as_posix() for path in folder.path.rglob("*.*")}
    assert left == {"stage.json", "depth/sparsity.json"}


def test_other_processes_write_and_delete_nothing(folder):
    write_text_atomically(folder.path / "train.checkpoint", "")
    before = stamp(folder)

    other = StageFolder(folder.path, "another", is_writer=False)
    other.prepare()
    other.write_json("metrics.json", {})
    other.finish()

    assert stamp(folder) == before
    assert {path.name for path in folder.path.iterdir()} == {"stage.json", "train.checkpoint"}
