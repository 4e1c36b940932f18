"""Runs whose targets are an original network's predictions."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from lomt.cli import app
from lomt.data import IMAGE, TaughtDataset, open_images
from lomt.deploy import export_files
from lomt.errors import DataError, LomtError, UnknownNameError
from lomt.models import load_model
from lomt.pipeline import run
from lomt.pipeline.model_source import ModelSource, open_source
from lomt.pipeline.onnx_quality import interface_of, metric_differences, metric_sizes, samples
from lomt.pipeline.parts import Parts
from lomt.pipeline.verify_file import verify_file
from lomt.recipe import load_recipe
from lomt.training import SilentProgress, evaluate
from tests.unit.pipeline.messages import Messages
from tests.unit.pipeline.original import Original, knowing, write_images
from tests.unit.pipeline.tiny import POINTS, RECIPE

COUNT = 20
DENSE = {"segmentation": 4, "depth": 1}


def images_recipe(root, *overrides, check_names=True, **data):
    block = {
        "kind": "images",
        "root": str(root),
        "size": [32, 48],
        "targets": "original",
        "validation_fraction": 0.2,
        "test_fraction": 0.25,
        **data,
    }
    changes = [f"data={json.dumps(block)}", "train.batch_size=4", *overrides]
    return load_recipe(str(RECIPE), changes, check_names=check_names)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("data") / "photos", COUNT)


@pytest.fixture
def original():
    with knowing(Original(DENSE)) as network:
        yield network


# --- targets


class Heard(SilentProgress):
    def __init__(self):
        self.started = []

    def start(self, description, total, done=0):
        self.started.append((description, total))


def batches(parts, split):
    return list(parts.loader(split, parts.recipe.train, is_augmented=False).epoch(0))


@pytest.mark.parametrize("cache", [True, False])
def test_without_labels_every_split_holds_the_originals_answers(photos, original, cache):
    heard = Heard()
    parts = Parts(images_recipe(photos, cache=cache), heard)
    assert parts.agreed == ("segmentation", "depth")
    assert {name: task.out_channels for name, task in parts.tasks.items()} == DENSE
    counts = {}
    for split in ("train", "validation", "test"):
        found = batches(parts, split)
        counts[split] = sum(len(batch[IMAGE]) for batch in found)
        for batch in found:
            said = parts.original(parts.prepared(batch[IMAGE]))
            assert batch["segmentation"].equal(said["segmentation"].argmax(1))
            torch.testing.assert_close(batch["depth"], said["depth"])
    assert counts == {"train": 12, "validation": 3, "test": 5}
    assert ("original's answers for train", 1) in heard.started
    asked = len(heard.started)
    batches(parts, "train")
    assert len(heard.started) == asked


def rooms_recipe(*overrides):
    return load_recipe(str(RECIPE), ("data.targets=original", *overrides))


SHADE = "tasks.shade={kind: regression}"


def test_with_labels_the_test_split_keeps_them():
    labelled = Parts(load_recipe(str(RECIPE)))
    classes = labelled.tasks["segmentation"]
    network = Original({"segmentation": classes.out_channels, "depth": 1}, {"shade": 2})
    with knowing(network):
        parts = Parts(rooms_recipe(SHADE))
        assert parts.agreed == ("shade",)
        assert parts.tasks["segmentation"].classes == classes.classes
        for own, batch in zip(batches(labelled, "test"), batches(parts, "test"), strict=True):
            assert batch["segmentation"].equal(own["segmentation"])
            assert batch["depth"].equal(own["depth"])
            said = network(parts.prepared(batch[IMAGE]))
            torch.testing.assert_close(batch["shade"], said["shade"])
        (batch, *_) = batches(parts, "train")
        said = network(parts.prepared(batch[IMAGE]))
        assert batch["segmentation"].equal(said["segmentation"].argmax(1))


def test_a_target_is_the_labels_name_in_the_test_split():
    with knowing(Original({"far": 1})):
        recipe = rooms_recipe("tasks={far: {kind: depth, target: depth}}")
        parts = Parts(recipe)
        assert parts.agreed == ()
        (own,) = batches(Parts(load_recipe(str(RECIPE))), "test")
        (batch,) = batches(parts, "test")
        assert batch["far"].equal(own["depth"])
        with pytest.raises(UnknownNameError, match="target of task `far` `dept`, did you mean `depth`"):
            Parts(
                load_recipe(
                    str(RECIPE),
                    ("data.targets=original", "tasks={far: {kind: depth, target: dept}}"),
                    check_names=False,
                )
            ).dataset("train")


def test_other_weights_or_images_are_other_data(photos, original, tmp_path):
    prints = [Parts(images_recipe(photos)).fingerprint for _ in range(2)]
    other = Original(DENSE)
    with torch.no_grad():
        next(other.parameters()).add_(1)
    with knowing(other):
        prints.append(Parts(images_recipe(photos)).fingerprint)
    copied = Path(shutil.copytree(photos, tmp_path / "copy"))
    prints.append(Parts(images_recipe(copied)).fingerprint)
    (copied / "000.png").unlink()
    prints.append(Parts(images_recipe(copied)).fingerprint)
    assert prints[0] == prints[1] == prints[3]
    assert len(set(prints)) == 3


def test_damaged_images_are_left_out_before_the_original_is_asked(photos, original, tmp_path):
    copied = Path(shutil.copytree(photos, tmp_path / "copy"))
    train = open_images(copied, "train", size=None, validation_fraction=0.2, test_fraction=0.25)
    for name in train.paths[:3]:
        (copied / name).write_bytes(b"")
    with pytest.raises(DataError, match="Expected whole samples in copy, but 3 of 12 are damaged"):
        batches(Parts(images_recipe(copied)), "train")
    parts = Parts(images_recipe(copied, damaged="skip"))
    assert sum(len(batch[IMAGE]) for batch in batches(parts, "train")) == 8
    assert len(parts.skipped["train"]) == 3


# --- what cannot be


def test_a_recipe_without_an_original(photos, tmp_path):
    with pytest.raises(LomtError) as caught:
        run(images_recipe(photos), tmp_path / "run")
    assert str(caught.value) == (
        "Expected the recipe to name an original network, because `data.targets: original` takes its predictions, but "
        "it names none. Give `model.factory` with `weights`, or leave `data.targets` out."
    )
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_not_there(original, tmp_path):
    with pytest.raises(DataError, match="Expected `data.root` to be a folder, but there is none at"):
        _ = Parts(images_recipe(tmp_path / "none")).fingerprint


def test_a_folder_without_images(original, tmp_path):
    with pytest.raises(DataError, match="Expected images .* but found none"):
        _ = Parts(images_recipe(tmp_path)).fingerprint


def test_a_task_of_another_kind(photos, original):
    with pytest.raises(
        DataError, match=r"`depth` to have shape \(batch, 3, 32, 48\), .* kind normals of them"
    ):
        _ = Parts(images_recipe(photos, "tasks={depth: {kind: normals}}")).tasks


# --- a whole run


@pytest.fixture(scope="module")
def finished(photos, tmp_path_factory):
    """A run without labels to the end of its export, what it returned and what it said."""
    out, told = tmp_path_factory.mktemp("runs") / "tiny", Messages()
    with knowing(Original(DENSE)):
        summary = run(images_recipe(photos, POINTS, PRUNE), out, last="export", progress=told)
    return out, summary, told.texts


PRUNE = "prune={macs: 0.6, recalibrate_batches: 1, pruned_only: false}"


def test_it_says_plainly_that_figures_are_agreement(finished):
    _, summary, _ = finished
    text = str(summary)
    assert (
        "segmentation, depth: without labels, so these figures are agreement with the original network, and no part "
        "of delta_m." in text.splitlines()
    )
    assert "delta_m +" not in text
    assert "delta_m -" not in text
    values = summary.to_dict()
    assert values["agreement_with_original"] == ["segmentation", "depth"]
    assert (values["delta_m"], values["delta_m_per_task"], values["delta_m_by_network"]) == (None, None, {})
    json.dumps(values, allow_nan=False)
    assert set(values["metrics"]) == {"dense", "rewired", "pruned"}


def test_a_second_run_asks_nobody_and_does_nothing(finished, photos, original):
    out, summary, _ = finished
    heard = Heard()
    again = run(images_recipe(photos, POINTS, PRUNE), out, last="export", progress=heard)
    assert heard.started == []
    assert again.to_dict() == summary.to_dict()


def test_the_rewired_network_learns_from_the_dense_one(finished, photos, original, tmp_path):
    """Unless told not to: the records of training hold the teacher's losses as well."""
    out = Path(shutil.copytree(finished[0], tmp_path / "tiny"))
    alone = "rewire.distill={weights: {segmentation: 0, depth: 0}}"
    run(images_recipe(photos, POINTS, PRUNE, alone), out, last="rewire")
    first, second = (
        json.loads((place / "rewired" / "history.jsonl").read_text())["train_loss"]
        for place in (finished[0], out)
    )
    assert all(first[task] > 1.001 * second[task] for task in DENSE)


def test_its_files_are_verified_with_their_metrics(finished, original):
    out, summary, _ = finished
    source = open_source(str(out))
    assert source.name == str(out / "pruned")
    found = verify_file(out / "deploy" / "model.onnx", source)
    assert found.passed, found.problems
    assert found.metrics["depth"] == pytest.approx(summary.metrics["pruned"]["depth"], abs=1e-3)
    wrong = verify_file(out / "deploy" / "dense.onnx", source)
    assert any("of task `depth` to be" in problem for problem in wrong.problems)


# --- an original that is judged by itself


def test_a_file_of_the_original_itself_passes_though_its_errors_are_rounding(tiny_run, photos, tmp_path):
    network = load_model(tiny_run[0] / "dense")
    with knowing(network):
        parts = Parts(images_recipe(photos))
        result = evaluate(
            lambda images: network(parts.prepared(images)),
            parts.loader("test", parts.recipe.train).epoch(0),
            parts.tasks,
        )
        assert result.metrics["depth"]["abs_error"] < 1e-5
        assert result.metrics["segmentation"]["miou"] == 1
        images, interface = samples(parts, 8), interface_of(parts)
        source = ModelSource("it", network, images, interface, result.metrics, parts)
        export_files(
            network,
            source.file_images(interface)[:1],
            {tmp_path / "it.onnx": None},
            fixed_size=True,
            interface=interface,
            samples=source.file_images(interface),
            further_check=source.check(interface),
        )
        assert verify_file(tmp_path / "it.onnx", source).passed


def test_differences_are_told_from_rounding_by_the_size_of_the_answers(photos):
    with knowing(Original({**DENSE, "normals": 3}, {"pose": 2})):
        tasks = "{depth: {kind: depth}, normals: {kind: normals}, pose: {kind: regression}}"
        recipe = images_recipe(photos, f"tasks={tasks}")
        parts = Parts(recipe)
        sizes = metric_sizes(parts)
        data = parts.loader("test", recipe.train).dataset
    assert isinstance(data, TaughtDataset)
    assert sizes["depth"]["abs_error"] == sizes["depth"]["rmse"] == data.mean_size("depth") > 1
    assert sizes["pose"]["mae"] == data.mean_size("pose") > 0
    assert sizes["depth"]["delta1"] == sizes["pose"]["r2"] == 1
    assert sizes["normals"]["mean_deg"] == pytest.approx(57.3, abs=0.01)
    expected = {"depth": {"abs_error": 0.0}}
    near, far = ({"depth": {"abs_error": share * data.mean_size("depth")}} for share in (5e-4, 2e-3))
    assert metric_differences("x.onnx", near, expected, sizes) == []
    assert len(metric_differences("x.onnx", near, expected)) == 1
    assert len(metric_differences("x.onnx", far, expected, sizes)) == 1


def test_a_run_with_labels_has_no_such_sizes():
    assert metric_sizes(Parts(load_recipe(str(RECIPE)))) == {}


# --- the summary


def test_changes_and_delta_m_are_of_the_labelled_tasks_alone(finished):
    """With a dense network that agrees to the last bit, and one task that has labels."""
    _, summary, _ = finished
    metrics = {
        name: {**found, "depth": dict.fromkeys(found["depth"], value)}
        for (name, found), value in zip(summary.metrics.items(), (0.0, 0.5, 0.25), strict=True)
    }
    shown = dataclasses.replace(summary, metrics=metrics, agreed=("depth",))
    lines = str(shown).splitlines()
    (depth,) = [line for line in lines if "abs_error" in line]
    assert depth.split()[-3:] == ["0", "0.5", "0.25"]
    (miou,) = [line for line in lines if "miou" in line]
    assert miou.count("%") == 2 or summary.metrics["dense"]["segmentation"]["miou"] == 0


def test_images_are_checked_and_drawn(photos, tmp_path):
    def call(*arguments):
        return CliRunner().invoke(app, ["data", *map(str, arguments)])

    result = call("check", photos)
    assert result.exit_code == 0, result.output
    assert "layout images" in result.output
    assert f"train: {COUNT} samples, 0 damaged; images {COUNT} of 32x48" in result.output
    assert "target" not in result.output
    result = call("preview", photos, "--out", tmp_path / "a.png", "--count", 2, "--size", "24x32")
    assert f"2 of {COUNT} samples of photos (train) drawn" in result.output
