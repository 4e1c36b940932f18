"""Runs whose targets are an original network's predictions."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from lomt.cli import app
from lomt.data import IMAGE, TaughtDataset, open_images
from lomt.errors import DataError, UnknownNameError
from lomt.pipeline import run
from lomt.pipeline.context import open_context
from lomt.pipeline.loss_scales import loss_scales
from lomt.pipeline.model_source import open_source
from lomt.pipeline.onnx_quality import metric_differences, metric_sizes
from lomt.pipeline.parts import Parts
from lomt.pipeline.prune_rounds import Rounds
from lomt.pipeline.run_directory import StageFolder
from lomt.pipeline.verify_file import verify_file
from lomt.pruning.storage import load
from lomt.recipe import load_recipe
from lomt.structure import trace_structure
from lomt.training import SilentProgress
from tests.reference import own_models
from tests.unit.pipeline.messages import Messages
from tests.unit.pipeline.original import Original, knowing, write_images
from tests.unit.pipeline.tiny import RECIPE

COUNT = 20
DENSE = {"segmentation": 4, "depth": 1}
MODEL = """model={
    factory: 'tests.reference.own_models:TwoUNets', trained: true, backbone: encoder,
    outputs: {segmentation: '0', depth: '1'}}"""


def images_recipe(root, *overrides, **data):
    block = {
        "kind": "images",
        "root": str(root),
        "size": [32, 48],
        "targets": "original",
        "validation_fraction": 0.2,
        "test_fraction": 0.25,
        **data,
    }
    changes = [MODEL, f"data={json.dumps(block)}", "train.batch_size=4", *overrides]
    return load_recipe(str(RECIPE), changes, check_names=False)


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


OTHER = "model={factory: 'tests.reference.own_models:TwoUNets', trained: true}"


def rooms_recipe(*overrides):
    return load_recipe(str(RECIPE), ("data.targets=original", OTHER, *overrides), check_names=False)


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
            _ = Parts(rooms_recipe("tasks={far: {kind: depth, target: dept}}")).fingerprint


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


def test_a_recipe_without_an_original():
    with pytest.raises(DataError, match=r"but it names none\. Give `model\.factory` and `model\.weights`\."):
        _ = Parts(load_recipe(str(RECIPE))).original


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
        _ = Parts(images_recipe(photos, OTHER, "tasks={depth: {kind: normals}}")).tasks


# --- a whole run of a network of the user's own and a folder of images

PRUNE = "prune={macs: 0.6, divisor: 1, recalibrate_batches: 1, pruned_only: false}"
POINTS = "rewire.branch_points={segmentation: encoder.layer2.1, depth: encoder.layer2.0}"


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Overrides that name a network with weights, whose depth is positive."""
    torch.manual_seed(0)
    model = own_models.TwoUNets(classes=4)
    with torch.no_grad():
        model.depth.bias += 3
    path = tmp_path_factory.mktemp("own") / "own.safetensors"
    save_file(model.state_dict(), path)
    return ("model.factory_options={classes: 4}", f"model.weights={path}")


@pytest.fixture(scope="module")
def finished(photos, own, tmp_path_factory):
    """A run without labels to the end of its export, what it returned and what it said."""
    out, told = tmp_path_factory.mktemp("runs") / "tiny", Messages()
    summary = run(images_recipe(photos, *own, POINTS, PRUNE), out, last="export", progress=told)
    return out, summary, told.texts


@pytest.mark.parametrize("importance", ["task_weighted", "taylor"])
def test_what_the_targets_are_made_of_is_scored_without_them(finished, photos, own, importance):
    prune_dense = f"{PRUNE[:-1]}, target: dense, importance: {importance}}}"
    context = open_context(images_recipe(photos, *own, prune_dense, augment={"flip": 0}), finished[0])
    rounds = Rounds(context, context.recipe.prune, StageFolder(finished[0] / "unused", ""))
    dense, cpu = load(finished[0] / "dense"), torch.device("cpu")
    scores = rounds._importance(cpu)(trace_structure(dense, rounds._example(dense)), dense)
    own_losses = next(rounds._batches(cpu).losses(1, dense))
    assert float(own_losses["depth"].detach()) < 1e-5
    depth = [values for name, values in scores.items() if name.startswith("decoders.depth")]
    assert depth and all(float(values.sum()) > 0 for values in depth)


def test_the_network_agrees_with_itself_and_its_files_pass(finished):
    out, summary, texts = finished
    assert "train: the model is trained already" in texts
    dense = summary.metrics["dense"]
    assert dense["depth"]["abs_error"] < 1e-4
    assert dense["segmentation"]["miou"] == pytest.approx(1)
    assert summary.metrics["rewired"]["depth"]["abs_error"] > dense["depth"]["abs_error"]
    assert json.loads((out / "deploy" / "verification.json").read_text())["passed"]


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


def test_a_second_run_asks_nobody_and_does_nothing(finished, photos, own):
    out, summary, _ = finished
    heard = Heard()
    again = run(images_recipe(photos, *own, POINTS, PRUNE), out, last="export", progress=heard)
    assert heard.started == []
    assert again.to_dict() == summary.to_dict()


def test_the_rewired_network_learns_from_the_dense_one(finished, photos, own, tmp_path):
    """Unless told not to: the records of training hold the teacher's losses as well."""
    out = Path(shutil.copytree(finished[0], tmp_path / "tiny"))
    alone = "rewire.distill={weights: {segmentation: 0, depth: 0}}"
    run(images_recipe(photos, *own, POINTS, PRUNE, alone), out, last="rewire")
    first, second = (
        json.loads((place / "rewired" / "history.jsonl").read_text())["train_loss"]
        for place in (finished[0], out)
    )
    assert all(first[task] > 1.001 * second[task] for task in DENSE)


def test_its_files_are_verified_with_their_metrics(finished):
    out, summary, _ = finished
    source = open_source(str(out))
    assert source.name == str(out / "pruned")
    found = verify_file(out / "deploy" / "model.onnx", source)
    assert found.passed, found.problems
    assert found.metrics["depth"] == pytest.approx(summary.metrics["pruned"]["depth"], abs=1e-2)
    wrong = verify_file(out / "deploy" / "dense.onnx", source)
    assert any("of task `depth` to be" in problem for problem in wrong.problems)


def test_locating_is_in_units_of_what_there_is_to_learn(photos, own, tmp_path):
    """Not of the loss at the start, which is nothing but rounding."""
    context = open_context(images_recipe(photos, *own), tmp_path / "run")
    parts, task = context.parts, context.parts.tasks["depth"]
    model = context.build(parts.model_spec({"depth": task}))
    found = loss_scales(context, model, {"depth": task})

    constant = parts.output_biases["depth"][:, None, None]
    loss, count = 0.0, 0.0
    for batch in parts.loader("train", context.recipe.locate.train).epoch(0):
        target = batch["depth"]
        loss += float(task.loss(constant.expand_as(target), target))
        count += float(task.loss.count(target))
    assert found == {"depth": pytest.approx(count / loss, rel=1e-4)}
    assert found["depth"] < 1e5


# --- files of networks that agree


def test_differences_are_told_from_rounding_by_the_size_of_the_answers(photos):
    with knowing(Original({**DENSE, "normals": 3}, {"pose": 2})):
        tasks = "{depth: {kind: depth}, normals: {kind: normals}, pose: {kind: regression}}"
        recipe = images_recipe(photos, OTHER, f"tasks={tasks}")
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
    assert miou.count("%") == 2


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
