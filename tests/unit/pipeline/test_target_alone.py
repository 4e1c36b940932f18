"""The target in a network of its own: how long it is trained, what is kept, and when there is nothing to do."""

import json

import pytest

from lomt.pipeline import run
from lomt.recipe import load_recipe
from tests.unit.pipeline.messages import Messages
from tests.unit.pipeline.tiny import RECIPE

TARGET = ("target=depth", "train.epochs=2")


def go(out, *changes, progress=None):
    messages = Messages() if progress is None else progress
    summary = run(load_recipe(str(RECIPE), (*TARGET, *changes)), out, last="train", progress=messages)
    return summary, messages.texts


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "target"
    return out, *go(out)


def stored(out):
    return json.loads((out / "target_alone" / "metrics.json").read_text())


def test_equal_steps_are_the_multitask_networks_epochs(trained):
    out, summary, texts = trained
    found = stored(out)

    assert found["task"] == "depth"
    assert found["multitask"]["epochs"] == found["equal_steps"]["epochs"] == 2
    assert found["equal_steps"]["metrics"].keys() == summary.metrics["dense"]["depth"].keys()
    assert any(text.startswith("train: depth alone, 2 epochs") for text in texts)
    assert summary.to_dict()["target"] == found


def test_equal_time_has_the_epochs_that_come_nearest_to_it(trained):
    found = stored(trained[0])
    an_epoch = found["equal_steps"]["seconds"] / 2
    best = max(1, round(found["multitask"]["seconds"] / an_epoch))

    assert found["equal_time"]["epochs"] == best
    assert (found["equal_time"] == found["equal_steps"]) == (best == 2)


def test_summary_shows_both_changes(trained):
    out, summary, _ = trained
    found, multitask = stored(out), summary.metrics["dense"]["depth"]["abs_error"]
    lines = str(summary).splitlines()
    row = next(line for line in lines if line.startswith("* abs_error") and "higher" not in line)
    alone = [found[name]["metrics"]["abs_error"] for name in ("equal_steps", "equal_time")]

    assert row.split()[-2:] == [f"{(multitask - own) / own:+.1%}" for own in alone]
    assert any(line.startswith("training: multitask 2 epochs in") for line in lines)


def test_second_call_trains_nothing(trained):
    out, first, _ = trained
    before = (out / "target_alone" / "metrics.json").stat().st_mtime_ns
    summary, texts = go(out)

    assert texts == []
    assert (out / "target_alone" / "metrics.json").stat().st_mtime_ns == before
    assert summary.to_dict() == first.to_dict()


class Stop(Exception):
    """A training that ends early."""


class Stopping(Messages):
    """Stops at the first step of the training that a message announces."""

    def __init__(self, word):
        super().__init__()
        self.word = word

    def advance(self, count=1, **figures):
        if any(self.word in text for text in self.texts):
            raise Stop


def slow_down(out, factor):
    """Let the multitask network have taken longer."""
    path = out / "dense" / "history.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    lines = [json.dumps({**own, "seconds": factor * own["seconds"]}) for own in records]
    path.write_text("".join(f"{line}\n" for line in lines))


@pytest.mark.parametrize("word", ["equal steps", "equal time"])
def test_stopped_training_goes_on_at_its_length(tmp_path, word):
    out = tmp_path / "run"
    go(out, "target_alone=false")
    slow_down(out, 6)
    with pytest.raises(Stop):
        go(out, progress=Stopping(word))
    lengths = json.loads((out / "target_alone" / "lengths.json").read_text())
    slow_down(out, 3)
    go(out)
    found = stored(out)

    assert lengths["equal_steps"] == found["equal_steps"]["epochs"] == 2
    assert found["equal_time"]["epochs"] == lengths.get("equal_time", found["equal_time"]["epochs"]) > 2
    assert found["equal_time"]["metrics"] != found["equal_steps"]["metrics"]


@pytest.mark.parametrize("change", ["target=null", "target_alone=false", "tasks.segmentation=null"])
def test_nothing_is_trained_where_nothing_is_compared(tmp_path, change):
    if change.startswith("tasks"):
        recipe = load_recipe(str(RECIPE), TARGET)
        recipe = recipe.model_copy(update={"tasks": {"depth": recipe.tasks["depth"]}})
        summary = run(recipe, tmp_path / "run", last="train", progress=Messages())
    else:
        summary, _ = go(tmp_path / "run", change)

    assert summary.target is None
    assert not (tmp_path / "run" / "target_alone").exists()
