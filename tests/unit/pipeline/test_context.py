"""What a stage's key depends on, and what one task is trained with."""

from pathlib import Path
from unittest.mock import Mock

import pytest

from lomt.pipeline.context import Context, open_context
from lomt.pipeline.parts import Parts
from lomt.pipeline.run_directory import RunDirectory, key_of
from lomt.recipe import load_recipe, shipped_paths
from lomt.training import SilentProgress

TINY = str(Path(__file__).with_name("tiny.yaml"))
STAGES = ("train", "locate", "rewire", "sparsify", "prune", "export")
# The keys of a training that needs neither a target nor single gradients.
PLAIN_TRAINING = {
    "epochs",
    "batch_size",
    "accumulation_steps",
    "precision",
    "optimizer",
    "schedule",
    "weighting",
    "gradient_clip",
    "early_stopping",
    "keep",
    "checkpoint_s",
    "tensorboard",
}


def context_of(name, *overrides):
    recipe = load_recipe(name, overrides, check_names=False)
    parts = Mock(spec=Parts, fingerprint="the data")
    return Context(recipe, Mock(spec=RunDirectory), SilentProgress(), parts, True)


@pytest.mark.parametrize("name", [TINY, *sorted(shipped_paths())])
def test_methods_not_in_use_are_in_no_key(name):
    settings = context_of(name).settings_key(*STAGES)["settings"]
    trainings = [settings["train"]]
    trainings += [settings[s]["train"] for s in ("locate", "rewire", "sparsify", "prune") if settings[s]]

    assert set(settings) == {"data", "tasks", "model", "seed", *STAGES}
    assert [set(training) for training in trainings] == [PLAIN_TRAINING] * len(trainings)


@pytest.mark.parametrize(
    "override",
    [
        "train.weighting_options={share: 0.25}",
        "train.aggregation=pcgrad",
        "train.aggregation_options={primary: depth}",
        "target=depth",
    ],
)
def test_methods_in_use_are_in_the_keys_of_all_trainings(override):
    for stage in ("train", "locate", "rewire"):
        plain = context_of(TINY).settings_key(stage)
        assert key_of(context_of(TINY, override).settings_key(stage)) != key_of(plain)


@pytest.mark.parametrize("name", [TINY, *sorted(shipped_paths())])
def test_labels_and_no_teacher_are_in_no_key(name):
    settings = context_of(name).settings_key(*STAGES)["settings"]
    assert not {"targets", "test_fraction"} & set(settings["data"])
    assert "distill" not in settings["rewire"]
    assert settings["prune"] is None or "distill" in settings["prune"]


OWN = "model={factory: 'a.b:c', trained: true}"


@pytest.mark.parametrize("override", ["data.targets=original", "rewire.distill={}"])
def test_an_original_and_a_teacher_are_in_the_keys(override):
    plain = context_of(TINY, OWN).settings_key("rewire")
    assert key_of(context_of(TINY, OWN, override).settings_key("rewire")) != key_of(plain)


def test_how_tasks_are_grouped_changes_no_key():
    grouped = context_of(TINY, "group.samples=3").settings_key(*STAGES)
    assert grouped == context_of(TINY).settings_key(*STAGES)


@pytest.mark.parametrize(("weighting", "alone"), [("dwa", "fixed"), ("uncertainty", "uncertainty")])
def test_one_task_is_neither_weighed_against_others_nor_aggregated(tmp_path, weighting, alone):
    asked = (f"train.weighting={weighting}", "train.aggregation=pcgrad", "target=depth")
    context = open_context(load_recipe(TINY, asked), tmp_path / "run")

    def options_for(*names):
        tasks = {name: context.parts.tasks[name] for name in names}
        model = context.parts.model_spec(tasks).build()
        return context.trainer(model, tasks, context.recipe.train, tmp_path)._options

    both, one = options_for("segmentation", "depth"), options_for("depth")
    assert (both.weighting, both.aggregation, both.target) == (weighting, "pcgrad", "depth")
    assert (one.weighting, one.aggregation, one.target) == (alone, None, "depth")
    assert options_for("segmentation").target is None
