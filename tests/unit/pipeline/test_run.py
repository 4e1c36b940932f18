import dataclasses
import json
import re
import shutil
from pathlib import Path

import onnxruntime
import pytest
import yaml

from lomt import cli
from lomt.branching import next_finer, read_branch_points
from lomt.deploy.weights_hash import weights_sha256
from lomt.errors import ArtifactError, DataError, UnknownNameError
from lomt.models import create_backbone, list_layers, load_model
from lomt.pipeline import STAGES, run
from lomt.recipe import load_recipe
from tests.unit.pipeline.messages import Messages

RECIPE = Path(__file__).with_name("tiny.yaml")


def go(out, *overrides, **choices):
    messages = Messages()
    summary = run(load_recipe(str(RECIPE), overrides), out, progress=messages, **choices)
    return summary, messages.texts


@pytest.fixture(scope="module")
def finished(tiny_run):
    return tiny_run


@pytest.fixture
def copy(finished, tmp_path):
    return Path(shutil.copytree(finished[0], tmp_path / "tiny"))


def test_every_stage_leaves_its_artefacts(finished):
    out, _, texts = finished
    assert texts[0].startswith("train:")
    for name in (
        "recipe.yaml",
        "dense/model.safetensors",
        "dense/metrics.json",
        "dense/history.jsonl",
        "locate/single_task/depth/sparsity.json",
        "locate/report.txt",
        "locate/branch_points.yaml",
        "rewired/structure.json",
        "rewired/metrics.json",
        "deploy/model.onnx",
        "deploy/segmentation.onnx",
        "deploy/depth.onnx",
        "deploy/verification.json",
        "deploy/cost.json",
        "bench/latency.json",
    ):
        assert (out / name).is_file(), name
    assert not list(out.rglob("*.checkpoint"))
    assert not list(out.rglob("*.partial"))


def test_every_stage_notes_what_it_took(finished):
    out, _, _ = finished
    stamps = [json.loads(path.read_text()) for path in out.glob("*/stage.json")]

    assert (
        len(stamps) == len(STAGES) - 4
    )  # the recipe has no blocks `sparsify`, `prune`, `finetune` and `quantize`
    assert all(stamp["finished"] and stamp["seconds_of_last_attempt"] > 0 for stamp in stamps)
    assert all(stamp["peak_memory_bytes"] > 1e8 for stamp in stamps)


def test_stored_recipe_is_complete_and_runs_again(finished):
    out, _, _ = finished
    text = (out / "recipe.yaml").read_text()

    assert "lomt 0." in text.splitlines()[0]
    assert "data fingerprint" in text.splitlines()[1]
    assert load_recipe(str(out / "recipe.yaml")) == load_recipe(str(RECIPE))
    assert yaml.safe_load(text)["locate"]["train"]["optimizer"]["lr"] == 1e-3


def test_rewired_model_and_onnx_are_what_branch_points_say(finished):
    out, summary, _ = finished
    chosen = yaml.safe_load((out / "locate" / "branch_points.yaml").read_text())

    assert load_model(out / "rewired").branch_points == chosen == summary.branch_points
    session = onnxruntime.InferenceSession(out / "deploy" / "model.onnx")
    assert [o.name for o in session.get_outputs()] == ["segmentation", "depth"]
    assert json.loads(session.get_modelmeta().custom_metadata_map["branch_points"]) == chosen


def test_onnx_metrics_are_those_of_pytorch(finished):
    out, _, _ = finished
    stored = json.loads((out / "dense" / "metrics.json").read_text())["metrics"]
    again = json.loads((out / "deploy" / "verification.json").read_text())["files"]["dense.onnx"]["metrics"]

    assert again["depth"]["abs_error"] == pytest.approx(stored["depth"]["abs_error"], rel=1e-4)


def test_every_task_has_a_file_of_its_own_that_is_verified(finished):
    out, summary, _ = finished
    stored = json.loads((out / "deploy" / "verification.json").read_text())
    costs = json.loads((out / "deploy" / "cost.json").read_text())

    assert stored["passed"] and list(stored["files"]) == list(costs)
    for task in ("segmentation", "depth"):
        session = onnxruntime.InferenceSession(out / "deploy" / f"{task}.onnx")
        assert [output.name for output in session.get_outputs()] == [task]
        found = stored["files"][f"{task}.onnx"]
        assert {check["batch"] for check in found["values"]["checks"]} == {1, 3, 8}
        assert found["metrics"] == {
            task: pytest.approx(stored["files"]["model.onnx"]["metrics"][task], rel=1e-3)
        }
        assert costs[f"{task}.onnx"]["macs"] == costs["model.onnx"]["tasks"][task]["macs"]
        assert costs[f"{task}.onnx"]["macs"] < costs["model.onnx"]["macs"]
        assert summary.to_dict()["task_costs"][task]["file_bytes"] == costs[f"{task}.onnx"]["file_bytes"]


def test_one_table_has_all_files_with_their_speed_once_that_is_measured(finished):
    _, summary, _ = finished
    files = [
        "dense",
        "truncated only",
        *(f"task {task}, at {at}" for task, at in summary.branch_points.items()),
    ]
    for shown in (summary, dataclasses.replace(summary, latency={})):
        lines = str(shown).splitlines()
        (start,) = (number for number, line in enumerate(lines) if line.startswith("file  "))
        heading, rows = lines[start], lines[start + 1 : start + 1 + len(files)]
        assert [re.split("  +", row)[0] for row in rows] == files
        assert ("speed-up (95 % interval)" in heading) == bool(shown.latency)
        for row, cost in zip(rows, [*shown.costs.values(), *shown.task_costs.values()], strict=True):
            assert f"{cost['macs'] / 1e6:.4g}" in row.split()


def test_the_files_say_what_the_recipe_says(finished):
    out, _, _ = finished
    metadata = onnxruntime.InferenceSession(out / "deploy" / "depth.onnx").get_modelmeta().custom_metadata_map

    assert json.loads(metadata["lomt.outputs"])["depth"] == {
        "kind": "depth",
        "values": "metres",
        "unit": "m",
        "classes": [],
    }
    assert json.loads(metadata["lomt.preprocessing"])["is_baked"] is False
    assert metadata["lomt.weights_sha256"] == weights_sha256(load_model(out / "rewired"))
    assert json.loads(metadata["lomt.input"])["fixed_size_because"] == "it was asked for"


def test_summary_shows_every_task_cost_and_interval(finished):
    _, summary, _ = finished
    text = str(summary)

    for expected in ("segmentation", "abs_error", "parameters (M)", "MACs (M)", "file (MB)", "95 % interval"):
        assert expected in text
    assert "delta_m" in text
    assert "baseline dense" in text
    values = summary.to_dict()
    assert values["costs"]["rewired"]["params"] < values["costs"]["dense"]["params"]
    json.dumps(values)


def test_second_run_does_nothing(finished):
    out, summary, _ = finished
    again, texts = go(out)

    assert texts == []
    assert again.to_dict() == summary.to_dict()


def test_changed_setting_runs_its_stage_and_those_after(copy):
    _, texts = go(copy, "rewire.train.epochs=2")

    assert [text.split(":")[0] for text in texts] == ["rewire", "export", "bench"]


def test_another_rule_reads_the_same_trials(copy):
    stored = (copy / "locate" / "single_task" / "depth" / "sparsity.json").stat().st_mtime_ns
    _, texts = go(copy, "locate.rule=deepest_active", last="locate")

    assert [text.split(" needs ")[0] for text in texts] == ["locate: segmentation", "locate: depth"]
    assert (copy / "locate" / "single_task" / "depth" / "sparsity.json").stat().st_mtime_ns == stored


def test_finer_layers_are_tried_for_as_long_as_they_are_better(copy):
    weak = ("locate.lambdas.start=1e-9", "locate.lambdas.stop=1e-9", "locate.lambdas.count=1")
    go(copy, "locate.finer_epochs=1", *weak, last="locate")

    layers_of_the_backbone = list_layers(
        create_backbone(load_model(copy / "dense").spec.backbone), (32, 48), "all"
    )
    profiles = json.loads((copy / "locate/profiles.json").read_text())
    chosen = read_branch_points(copy / "locate/branch_points.yaml", ["segmentation", "depth"])
    for task, losses in profiles["finer"].items():
        layers, values = list(losses), list(losses.values())
        assert chosen[task] == min(losses, key=losses.get)
        assert values[:-1] == sorted(values[:-1], reverse=True)
        assert next_finer(layers_of_the_backbone, layers[-1]) is None or values[-1] >= values[-2]
    stamps = {path: path.stat().st_mtime_ns for path in (copy / "locate").rglob("at_*.json")}
    assert len(stamps) >= 4
    go(copy, "locate.finer_epochs=1", *weak, "locate.activity=0.02", last="locate")
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())


def test_edited_branch_points_are_used(copy):
    path = copy / "locate" / "branch_points.yaml"
    path.write_text("segmentation: layer3.0\ndepth: layer2.0\n")
    summary, texts = go(copy, last="rewire")

    assert [text.split(":")[0] for text in texts] == ["rewire"]
    assert summary.branch_points == {"segmentation": "layer3.0", "depth": "layer2.0"}


def test_branch_points_from_a_file_need_no_locate(copy, tmp_path):
    shutil.rmtree(copy / "locate")
    path = tmp_path / "mine.yaml"
    path.write_text("segmentation: layer2.0.conv1\ndepth: layer2\n")
    summary, _ = go(copy, first="rewire", last="rewire", branch_points=path)

    assert summary.branch_points["segmentation"] == "layer2.0.conv1"
    assert load_model(copy / "rewired").backbone.channels["layer2.0.conv1"] > 0


def test_unknown_layer_in_branch_points_is_named(copy):
    (copy / "locate" / "branch_points.yaml").write_text("segmentation: layer9\ndepth: layer2.0\n")
    with pytest.raises(UnknownNameError, match="Unknown layer of task `segmentation` `layer9`"):
        go(copy, last="rewire")


def test_stage_without_the_one_before_is_refused(tmp_path):
    with pytest.raises(
        ArtifactError, match=r"to hold a finished stage .* Run the earlier stages first; `lomt run` does"
    ):
        go(tmp_path / "new", first="locate", last="locate")


def test_directory_of_another_recipe_is_refused_and_kept(copy):
    before = sorted(p.name for p in copy.rglob("*"))
    with pytest.raises(ArtifactError, match=r"belong to recipe `other`, but it belongs to `tiny`.*--out"):
        go(copy, "name=other")

    assert sorted(p.name for p in copy.rglob("*")) == before


def test_foreign_directory_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(
        ArtifactError, match="to be a run directory or an empty one, but it holds something else"
    ):
        go(tmp_path)

    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_damaged_artefact_is_named(copy):
    (copy / "dense" / "stage.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"stage\.json is damaged .* Delete it and run its stage again"):
        go(copy)


@pytest.mark.parametrize(
    ("first", "last", "message"),
    [
        ("lokate", "bench", "Unknown stage `lokate`, did you mean `locate`"),
        ("bench", "train", "`bench` or later"),
    ],
)
def test_stage_names_are_checked(tmp_path, first, last, message):
    with pytest.raises(ValueError, match=message):
        go(tmp_path / "new", first=first, last=last)


def with_task(name, **settings):
    """A recipe with one more task, past the recipe's own checks, which know the targets of rooms."""
    recipe = load_recipe(str(RECIPE))
    task = recipe.tasks["depth"].model_copy(update=settings)
    return recipe.model_copy(update={"tasks": {**recipe.tasks, name: task}})


def test_task_without_data_is_named(tmp_path):
    with pytest.raises(UnknownNameError, match="Unknown target of the rooms `albedo`"):
        run(with_task("albedo"), tmp_path / "new")


def test_task_of_another_kind_is_named(tmp_path):
    with pytest.raises(
        DataError, match="kind depth, because `tasks.rims.kind` says so, but it is of kind edges"
    ):
        run(with_task("rims", target="edges"), tmp_path / "new")


def test_stages_are_in_order():
    stages = ("train", "locate", "rewire", "sparsify", "prune", "finetune", "export", "quantize", "bench")
    assert STAGES == cli.STAGES == stages
