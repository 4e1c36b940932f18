"""A task is added to a trained network; the others answer as before."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lomt import pipeline
from lomt.errors import ArtifactError, DataError, LomtError, UnknownNameError
from lomt.models.intermediates import Backbone
from lomt.models.storage import load_model
from lomt.pipeline import add_network, add_stage
from lomt.pipeline.model_source import open_source
from lomt.recipe import load_recipe
from tests.unit.killed_after import KilledInTraining
from tests.unit.pipeline.messages import Messages
from tests.unit.pipeline.tiny import RECIPE

# Scores that the loss has raised by less than the penalty's 6 steps of 0.1 * 0.0014 / 12 end below where they began.
ADD = (
    "add={penalty: 0.0014, threshold: 0.15, warmup_epochs: 1, train: {epochs: 3, checkpoint_s: 0.001, "
    "optimizer: {kind: sgd, lr: 0.1}}}"
)
MORE = ("tasks.edges={kind: edges}", "name=more", ADD)


def go(network, out, *overrides, task="edges", progress=None):
    told = progress or Messages()
    found = pipeline.add(
        load_recipe(str(RECIPE), (*MORE, *overrides)), out, network=network, task=task, progress=told
    )
    return found, getattr(told, "texts", [])


@pytest.fixture(scope="module")
def finished(rewired_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "more"
    return out, *go(rewired_run / "rewired", out)


def test_it_leaves_its_artefacts_and_says_what_came_of_it(finished, rewired_run):
    out, found, texts = finished
    sharing = json.loads((out / "added" / "sharing.json").read_text())
    metrics = json.loads((out / "added" / "metrics.json").read_text())

    assert texts == [f"add: edges to {rewired_run / 'rewired'}, 12 layers up to layer3 may change"]
    assert sorted(path.name for path in (out / "added").iterdir()) == [
        "history.jsonl",
        "metrics.json",
        "model.safetensors",
        "sharing.json",
        "stage.json",
        "structure.json",
    ]
    assert 0 < len(found.changed) < 12, "this penalty shares some layers"
    assert [layer["changed"] for layer in sharing["layers"]] == [
        layer["score"] >= 0.15 for layer in sharing["layers"]
    ]
    assert set(metrics["metrics"]) == {"segmentation", "depth", "edges"}
    assert metrics["before"]["metrics"] == {t: metrics["metrics"][t] for t in ("segmentation", "depth")}
    text = str(found)
    assert f"{len(found.changed)} of 12" in text
    assert "MACs added" in text
    assert "before" in text


def test_old_answers_are_the_same_and_only_what_changed_is_stored_again(finished, rewired_run):
    out, found, _ = finished
    old, new = load_model(rewired_run / "rewired"), load_model(out / "added")
    images = torch.rand(3, 3, 32, 48)

    assert all(torch.equal(value, new(images)[task]) for task, value in old(images).items())
    was, now = (load_file(path / "model.safetensors") for path in (rewired_run / "rewired", out / "added"))
    assert all(value.equal(now[name]) for name, value in was.items())
    layers = {
        name.removeprefix("backbone.task_layers.edges.").rpartition(".")[0]
        for name in now
        if "task_l" in name
    }
    norms = {layer["norm"] for layer in found.sharing["layers"] if layer["changed"]}
    assert layers == {*found.changed, *norms}
    parameters = found.sharing["parameters"]
    assert parameters["added"] == sum(p.numel() for p in new.parameters()) - sum(
        p.numel() for p in old.parameters()
    )
    assert 0 < found.sharing["macs"]["share"] <= 1


def test_the_next_call_does_nothing_and_the_network_exports(finished, tmp_path, rewired_run):
    out, found, _ = finished
    again, texts = go(rewired_run / "rewired", out)
    assert texts == []
    assert str(again) == str(found)
    from lomt.deploy import export_onnx, verify_onnx  # heavy

    source = open_source(str(out))
    assert source.name == str(out / "added")
    path = tmp_path / "model.onnx"
    export_onnx(source.model, source.images, path)
    verified = verify_onnx(source.model, path, source.images)
    assert verified.passed
    assert {check.output for check in verified.checks} == {"segmentation", "depth", "edges"}


def test_killed_and_resumed_equals_uninterrupted(finished, rewired_run, tmp_path):
    with pytest.raises(SystemExit):
        go(rewired_run / "rewired", tmp_path / "more", progress=KilledInTraining(4))
    go(rewired_run / "rewired", tmp_path / "more")
    expected, found = (load_file(p / "added" / "model.safetensors") for p in (finished[0], tmp_path / "more"))
    assert expected.keys() == found.keys()
    assert all(expected[name].equal(found[name]) for name in expected)


def test_a_network_without_labels_for_its_tasks_is_extended_all_the_same(rewired_run, tmp_path):
    recipe = load_recipe(
        str(RECIPE), ("tasks={edges: {kind: edges}}", "name=alone", "add={train: {epochs: 1}}")
    )
    found = pipeline.add(recipe, tmp_path / "alone", network=rewired_run / "rewired", task="edges")
    assert found.metrics["not_judged"] == ["segmentation", "depth"]
    assert "Not judged, because the recipe does not have them: segmentation, depth." in str(found)
    assert list(load_model(tmp_path / "alone" / "added").decoders) == ["segmentation", "depth", "edges"]


def refused(network, out, *overrides, **choices):
    with pytest.raises(LomtError) as caught:
        go(network, out, *overrides, **choices)
    assert not (out / "added").exists()
    return caught.value


def test_what_is_no_network_is_refused(rewired_run, tmp_path):
    error = refused(tmp_path / "nowhere", tmp_path / "out")
    assert "Expected `--network` to be a folder with a saved network" in str(error)
    assert str(error).endswith("nowhere has none.")
    assert "is a run directory: name one of its networks" in str(refused(rewired_run, tmp_path / "out"))


def test_networks_of_other_kinds_are_refused(rewired_run, tmp_path, monkeypatch):
    for folder, content, text in (
        ("pruned", {"kind": "pruned"}, "was pruned. Add the task first"),
        ("own", {"schema": 1, "model": {"factory": "x:y"}}, "is of your own model `x:y`"),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "structure.json").write_text(json.dumps(content))
        assert text in str(refused(tmp_path / folder, tmp_path / "out"))
    monkeypatch.setattr(add_network, "GraphBackbone", type("Other", (Backbone,), {}))
    assert "is cut at whole stages only" in str(refused(rewired_run / "rewired", tmp_path / "out"))


def test_tasks_that_cannot_be_added_are_refused(rewired_run, tmp_path):
    network, out = rewired_run / "rewired", tmp_path / "out"
    assert "has `depth` already. It has segmentation, depth." in str(refused(network, out, task="depth"))
    error = refused(network, out, task="edgs")
    assert isinstance(error, UnknownNameError)
    assert "Unknown task of recipe `more` `edgs`, did you mean `edges`?" in str(error)
    assert "Expected `--task` to say which" in str(refused(network, out, task=None))


def test_recipes_that_do_not_fit_the_network_are_refused(rewired_run, tmp_path):
    network, out = rewired_run / "rewired", tmp_path / "out"
    for override, text in (
        ("model.backbone.output_stride=16", "Expected `model.backbone` of recipe `more` to be that of"),
        ("data.size=[64, 64]", "to be 32x48, with which"),
        ("data.mean=[0.1, 0.1, 0.1]", "Expected `data.mean` of recipe `more` to be"),
        ("add.branch_point=layer4", "Unknown branch point `layer4`"),
    ):
        assert text in str(refused(network, out, override))
    with pytest.raises(ArtifactError, match="Expected the run directory to be another one"):
        go(network, rewired_run)


def test_tasks_of_another_size_are_refused(rewired_run, tmp_path):
    network = Path(shutil.copytree(rewired_run / "rewired", tmp_path / "other"))
    model = load_model(network)
    given = add_network.GivenNetwork(network, model, None)
    recipe = load_recipe(str(RECIPE), MORE)
    parts = add_stage.open_context(recipe, tmp_path / "out").parts
    add_network.check_tasks(parts, given)
    model.spec.out_channels["segmentation"] += 1
    with pytest.raises(DataError, match="Expected task `segmentation` to have .* outputs as in"):
        add_network.check_tasks(parts, given)


def test_a_merged_network_that_computes_something_else_is_refused(finished):
    from lomt.errors import TrainingError  # the check has no other way to fail

    model = load_model(finished[0] / "added")
    other = load_model(finished[0] / "added")
    images = torch.rand(1, 3, 32, 48)
    add_stage._check_same(model, model, other, "edges", images)
    with torch.no_grad():
        other.decoders["edges"].head.bias.add_(1.0)
    with pytest.raises(TrainingError, match="the predictions of `edges` to stay the same"):
        add_stage._check_same(model, model, other, "edges", images)
    with pytest.raises(
        TrainingError, match="Expected the merged network to predict task `depth` as it was trained"
    ):
        with torch.no_grad():
            changed = load_model(finished[0] / "added")
            changed.decoders["depth"].head.bias.add_(1.0)
        add_stage._check_same(model, changed, model, "depth", images)
