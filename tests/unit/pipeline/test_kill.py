"""A run killed in the middle of every stage ends with the weights of one never killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

RECIPE = Path(__file__).with_name("tiny.yaml")
ROOT = Path(__file__).parents[3]


def command(out):
    changes = ("train.checkpoint_s=0.001", "train.epochs=4", "locate.train.epochs=2", "data.counts.train=64")
    changes += ("prune.macs=0.6", "prune.rounds=2", "prune.importance=taylor", "prune.pruned_only=false")
    options = [option for change in changes for option in ("--set", change)]
    return [sys.executable, "-m", "lomt.cli", "run", str(RECIPE), "--out", str(out), *options]


def start(out):
    return subprocess.Popen(
        command(out),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
    )


def kill_in(stage, out):
    """Start the run, wait until the stage says that it begins, let it work for a moment, kill it."""
    with start(out) as process:
        assert process.stdout is not None
        begun = any(line.startswith(f"{stage}:") for line in process.stdout)
        time.sleep(0.7)
        process.send_signal(signal.SIGKILL)
    assert begun, f"stage {stage} did not begin"


def finish(out):
    with start(out) as process:
        output, _ = process.communicate(timeout=300)
    assert "delta_m" in output, output[-2000:]


@pytest.mark.slow
def test_killed_in_each_stage_ends_the_same(tmp_path):
    finish(tmp_path / "whole")
    for stage in ("train", "locate", "rewire", "prune", "export", "bench"):
        kill_in(stage, tmp_path / "killed")
    finish(tmp_path / "killed")

    for folder in ("dense", "rewired", "pruned"):
        expected, found = (
            load_file(tmp_path / n / folder / "model.safetensors") for n in ("whole", "killed")
        )
        assert expected.keys() == found.keys()
        assert all(expected[name].equal(found[name]) for name in expected)
    points = [(tmp_path / n / "locate" / "branch_points.yaml").read_text() for n in ("whole", "killed")]
    assert points[0] == points[1]
    assert not list((tmp_path / "killed").rglob("*.partial"))
