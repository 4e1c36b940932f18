"""One task goes on in a part of the network; the rest stays as it is."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lomt import pipeline
from lomt.errors import ArtifactError
from lomt.pipeline.bench_stage import arm_titles
from lomt.pipeline.export_stage import onnx_files
from lomt.pipeline.finetune_stage import tuned_network, tuned_task
from lomt.pruning.storage import load
from lomt.recipe import load_recipe
from tests.unit.killed_after import KilledInTraining
from tests.unit.pipeline.messages import Messages
from tests.unit.pipeline.tiny import POINTS, RECIPE

FINETUNE = (
    "finetune={target: depth, share: 0.3, loss_batches: 2, train: {epochs: 3, checkpoint_s: 0.001, "
    "optimizer: {lr: 0.01}}}"
)


def go(out, *overrides, progress=None, **choices):
    told = progress or Messages()
    recipe = load_recipe(str(RECIPE), (POINTS, FINETUNE, *overrides))
    summary = pipeline.run(recipe, out, progress=told, **{"last": "finetune", **choices})
    return summary, getattr(told, "texts", [])


@pytest.fixture(scope="module")
def finished(rewired_run, tmp_path_factory):
    out = Path(shutil.copytree(rewired_run, tmp_path_factory.mktemp("runs") / "tiny"))
    summary, texts = go(out)
    return out, summary, texts


def read(out, name):
    return json.loads((out / "finetuned" / name).read_text())


def test_it_leaves_its_artefacts_and_says_what_it_does(finished):
    out, summary, texts = finished
    counts = read(out, "metrics.json")["updated"]
    share = counts["updated"] / counts["of"]
    assert texts == [f"finetune: rewired network for depth, {share:.1%} of its parameters may change"]
    assert 0.1 < share < 0.5
    assert sorted(p.name for p in (out / "finetuned").iterdir()) == [
        "history.jsonl",
        "metrics.json",
        "model.safetensors",
        "selection.json",
        "stage.json",
        "structure.json",
    ]
    records = [json.loads(line) for line in (out / "finetuned" / "history.jsonl").read_text().splitlines()]
    assert [record["updated_parameters"] for record in records] == [counts["updated"]] * 3
    assert [set(record["train_loss"]) for record in records] == [{"depth"}] * 3
    assert summary.deployed == "finetuned"
    assert set(summary.metrics["finetuned"]) == {"segmentation", "depth"}


def test_what_is_called_frozen_is_the_same_bit_for_bit_and_the_target_is_better(finished):
    out, _, _ = finished
    old, new = (load_file(out / stage / "model.safetensors") for stage in ("rewired", "finetuned"))
    selection = read(out, "selection.json")
    changed = {name: int((new[name] != value).sum()) for name, value in old.items()}
    parameters = dict(load(out / "rewired").named_parameters())
    weights = {name: count for name, count in changed.items() if name in parameters}
    assert [name for name in selection["frozen"] if changed[name]] == []
    assert all(name in selection["frozen"] for name in weights if "segmentation" in name or "layer3" in name)
    assert all(0 < changed[name] < old[name].numel() for name in selection["partly_frozen"])
    # Updates of the last bits may round to nothing.
    assert (
        0.95 * selection["parameters"]["updated"]
        < sum(weights.values())
        <= selection["parameters"]["updated"]
    )
    assert sum(chosen for chosen, _ in selection["shared_channels"].values()) == round(
        0.3 * sum(count for _, count in selection["shared_channels"].values())
    )
    # A norm whose scale and bias are not all free keeps its statistics.
    held = {*selection["frozen"], *selection["partly_frozen"]}
    for name, count in changed.items():
        if name.endswith("running_mean") and name.replace("running_mean", "weight") in held:
            assert count == 0, name
    was, now = (
        json.loads((out / s / "metrics.json").read_text())["losses"] for s in ("rewired", "finetuned")
    )
    assert now["depth"] < was["depth"]


def test_the_network_is_whole_and_the_next_call_does_nothing(finished):
    out, _, _ = finished
    model = load(out / "finetuned")
    assert list(model.decoders) == ["segmentation", "depth"]
    assert set(model(torch.rand(2, 3, 32, 48))) == {"segmentation", "depth"}
    _, texts = go(out)
    assert texts == []


def test_with_no_share_only_the_own_part_moves(copy):
    go(copy, "finetune.share=0", "target=depth", "finetune.target=null", "finetune.train.epochs=1")
    old, new = (load_file(copy / stage / "model.safetensors") for stage in ("rewired", "finetuned"))
    assert {name for name in old if not old[name].equal(new[name])} == {
        "decoders.depth.head.weight",
        "decoders.depth.head.bias",
    }


@pytest.mark.parametrize("steps", [4, pytest.param(0, marks=pytest.mark.slow)])
def test_killed_and_resumed_equals_uninterrupted(finished, copy, steps):
    with pytest.raises(SystemExit):
        go(copy, progress=KilledInTraining(steps))
    go(copy)
    expected, found = (load_file(out / "finetuned" / "model.safetensors") for out in (finished[0], copy))
    assert expected.keys() == found.keys()
    assert all(expected[name].equal(found[name]) for name in expected)
    assert read(copy, "metrics.json") == read(finished[0], "metrics.json")
    assert sorted(p.name for p in (copy / "finetuned").iterdir()) == sorted(
        p.name for p in (finished[0] / "finetuned").iterdir()
    )


def test_a_recipe_without_the_block_has_no_such_stage(copy):
    stamps = {path: path.read_text() for path in copy.glob("*/stage.json")}
    with pytest.raises(ArtifactError, match="Expected recipe `tiny` to have a block `finetune`"):
        go(copy, "finetune=null")
    assert not (copy / "finetuned").exists()
    assert stamps == {path: path.read_text() for path in copy.glob("*/stage.json")}


@pytest.mark.parametrize(
    ("more", "network", "files"),
    [
        ([], "rewired", ["dense", "rewired", "finetuned"]),
        (["sparsify={target: {macs: 0.5}}"], "sparse", ["dense", "rewired", "sparse", "finetuned"]),
        (["prune={macs: 0.5}"], "pruned", ["dense", "rewired", "pruned_only", "pruned", "finetuned"]),
        (["finetune.network=dense"], "dense", ["dense", "rewired", "finetuned"]),
    ],
)
def test_the_last_network_goes_on_unless_the_recipe_says_which_and_is_the_one_to_deploy(more, network, files):
    recipe = load_recipe(str(RECIPE), (FINETUNE, *more))
    assert (tuned_network(recipe), tuned_task(recipe)) == (network, "depth")
    assert list(onnx_files(recipe)) == files
    assert onnx_files(recipe)["finetuned"] == "model.onnx"
    assert arm_titles(recipe)["finetuned"] == "fine-tuned for depth"


@pytest.mark.slow
def test_zeros_of_a_sparse_network_stay(copy):
    sparsify = (
        "sparsify={method: global_magnitude, granularity: unstructured, target: {params: 0.5}, ramp_epochs: 1, "
        "train: {epochs: 2}}"
    )
    go(copy, sparsify, "finetune.share=1")
    old, new = (load_file(copy / stage / "model.safetensors") for stage in ("sparse", "finetuned"))
    for name, value in old.items():
        if value.ndim > 1:
            assert ((value == 0) <= (new[name] == 0)).all(), name
    assert any((value == 0).any() for name, value in old.items() if "backbone" in name and value.ndim > 1)


@pytest.mark.slow
def test_a_pruned_network_goes_on(copy):
    go(copy, "prune={macs: 0.5, pruned_only: false}", "export.batch_sizes=[1, 2]", last="export")
    old, new = load(copy / "pruned"), load(copy / "finetuned")
    assert [p.shape for p in old.parameters()] == [p.shape for p in new.parameters()]
    assert (copy / "deploy" / "pruned.onnx").is_file()
    assert (copy / "deploy" / "model.onnx").is_file()
