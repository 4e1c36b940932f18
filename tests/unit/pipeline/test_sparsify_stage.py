import json
import shutil
from pathlib import Path

import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

from lomt import pipeline
from lomt.errors import ArtifactError, SparsityTargetError, UnknownNameError
from lomt.models import load_model
from lomt.pipeline.export_stage import onnx_files
from lomt.pruning import storage
from lomt.recipe import load_recipe
from lomt.sparsity.baselines import BASELINES, MaskAgreement
from tests.unit.pipeline.messages import Messages
from tests.unit.pipeline.tiny import POINTS, RECIPE

SPARSIFY = (
    "sparsify={method: both, target: {macs: 0.5}, loss_batches: 1, recalibrate_batches: 1, "
    "train: {epochs: 2, checkpoint_s: 0.001}}"
)
FILES = [
    "history.jsonl",
    "metrics.json",
    "model.safetensors",
    "sparsity.json",
    "stage.json",
    "structure.json",
]
STEPS = ["rewired", "sparsified", "removed", "healed"]


def go(out, *overrides, progress=None, **choices):
    told = progress or Messages()
    recipe = load_recipe(str(RECIPE), (POINTS, SPARSIFY, *overrides))
    summary = pipeline.run(recipe, out, progress=told, **{"last": "sparsify", **choices})
    return summary, getattr(told, "texts", [])


@pytest.fixture(scope="module")
def finished(rewired_run, tmp_path_factory):
    out = Path(shutil.copytree(rewired_run, tmp_path_factory.mktemp("runs") / "tiny"))
    summary, texts = go(out)
    return out, summary, texts


def read(out, name):
    return json.loads((out / "sparse" / name).read_text())


def assert_steps(out, *, is_exact=True):
    """Removal changes no output; parameters and MACs fall in that step and in no other."""
    steps = read(out, "metrics.json")["steps"]
    given, sparsified, removed, healed = steps
    assert given["step"] in ("rewired", "dense")
    assert [step["step"] for step in steps[1:]] == STEPS[1:]
    for cost in ("params", "macs"):
        assert given[cost] == sparsified[cost]
        assert removed[cost] == healed[cost]
        assert (removed[cost] < sparsified[cost]) or not is_exact
    assert removed["losses"] == pytest.approx(sparsified["losses"], rel=1e-4)
    for task, metrics in removed["metrics"].items():
        assert metrics == pytest.approx(sparsified["metrics"][task], rel=1e-3)
    assert read(out, "metrics.json")["metrics"] == healed["metrics"]
    return steps


def test_it_leaves_its_artefacts_and_says_what_it_does(finished):
    out, _, texts = finished
    assert texts == ["sparsify: both, rewired network, 50.0% of its macs to go"]
    assert sorted(p.name for p in (out / "sparse").iterdir()) == FILES
    records = [json.loads(line) for line in (out / "sparse" / "history.jsonl").read_text().splitlines()]
    assert [(record["phase"], record["epoch"]) for record in records] == [("rising", 0), ("healing", 0)]


def test_every_step_is_judged_and_removal_is_exact(finished):
    steps = assert_steps(finished[0])
    assert steps[0]["losses"] == json.loads((finished[0] / "rewired" / "metrics.json").read_text())["losses"]


def test_the_target_is_reached_within_a_point_and_reported_part_by_part(finished):
    out, _, _ = finished
    facts, steps = read(out, "sparsity.json"), read(out, "metrics.json")["steps"]

    assert facts["target"] == {"macs": 0.5}
    assert facts["reached"]["macs"] == pytest.approx(0.5, abs=0.01)
    assert facts["reached"]["macs"] == pytest.approx(1 - steps[3]["macs"] / steps[0]["macs"])
    assert facts["reached"]["params"] == pytest.approx(1 - steps[3]["params"] / steps[0]["params"])
    parts = {part["name"]: part for part in facts["healed"]["components"]}
    assert set(parts) == {"backbone", "segmentation", "depth"}
    assert sum(part["parameters"] for part in parts.values()) == steps[3]["params"]
    assert all(0 <= part["removed"] < 1 for part in parts.values())


def test_the_saved_network_is_the_one_judged(finished):
    out, _, _ = finished
    model, rewired = storage.load(out / "sparse"), load_model(out / "rewired")

    assert sum(p.numel() for p in model.parameters()) == read(out, "metrics.json")["steps"][3]["params"]
    assert model.branch_points == rewired.branch_points
    assert len(storage.origin_of(model).plans) == 1
    assert {name: value.shape for name, value in model(torch.rand(2, 3, 32, 48)).items()} == {
        name: value.shape for name, value in rewired(torch.rand(2, 3, 32, 48)).items()
    }


def test_the_summary_shows_the_sparse_network(finished):
    _, summary, _ = finished
    assert str(summary).splitlines()[2].split()[-5:] == ["dense", "rewired", "change", "sparse", "change"]
    values = summary.to_dict()
    assert values["delta_m"] == values["delta_m_by_network"]["sparse"]


def test_a_second_run_does_nothing(finished):
    out, summary, _ = finished
    again, texts = go(out)

    assert texts == []
    assert again.to_dict() == summary.to_dict()


def test_files_to_deploy():
    recipe = load_recipe(str(RECIPE), (POINTS, SPARSIFY))
    both = load_recipe(str(RECIPE), (POINTS, SPARSIFY, "prune={target: sparse, macs: 0.5}"))
    first = {"dense": "dense.onnx", "rewired": "rewired.onnx"}
    assert onnx_files(recipe) == {**first, "sparse": "model.onnx"}
    assert onnx_files(both) == {
        **first,
        "sparse": "sparse.onnx",
        "pruned_only": "pruned_only.onnx",
        "pruned": "model.onnx",
    }


# --- bad input


def test_a_recipe_without_the_block_has_no_such_stage(copy):
    with pytest.raises(ArtifactError) as caught:
        go(copy, "sparsify=null", first="sparsify")
    assert str(caught.value) == (
        "Expected recipe `tiny` to have a block `sparsify`, because that stage was asked for, but it has none. "
        "Give a target, for example with --set sparsify.target.macs=0.5."
    )
    assert not (copy / "sparse").exists()


def test_a_target_out_of_reach_says_what_is_in_reach(copy):
    with pytest.raises(
        SparsityTargetError, match=r"^Stage sparsify: Expected `target` to be between 0 and 0\.\d+, which"
    ):
        go(copy, "sparsify={target: {macs: 0.9999}}")


@pytest.mark.slow
def test_a_baseline_out_of_reach_says_what_is_in_reach(copy):
    with pytest.raises(
        SparsityTargetError,
        match=r"^Stage sparsify: Expected a target of at most 0\.\d+ of `macs`, all that can go .* but got 0.99",
    ):
        go(copy, "sparsify={method: global_magnitude, minimum: 0.5, target: {macs: 0.99}}")


@pytest.mark.parametrize("method", ["both", pytest.param("snip", marks=pytest.mark.slow)])
def test_a_part_without_channels_that_may_go(copy, method):
    with pytest.raises(UnknownNameError, match="^Unknown component `depth`. Known are backbone"):
        go(copy, f"sparsify={{method: {method}, components: [depth], target: {{removable: 0.5}}}}")


# --- killed and resumed


class KilledAfter(Messages):
    """Ends the process's work in a phase, named by what its progress bar says, after some of its steps."""

    def __init__(self, number, steps):
        super().__init__()
        self.number, self.steps = number, steps

    def start(self, description, total, done=0):
        self.number -= 1
        self._check()

    def advance(self, count=1, **figures):
        if self.number == 0:
            self.steps -= 1
        self._check()

    def _check(self):
        if self.number == 0 and self.steps == 0:
            raise SystemExit


@pytest.mark.slow
@pytest.mark.parametrize(("number", "steps"), [(1, 2), (2, 0), (3, 0), (4, 0), (4, 2), (5, 1)], ids=str)
def test_killed_and_resumed_equals_uninterrupted(finished, copy, number, steps):
    """While sparsity rises, while the sparse and the smaller network are judged, and while healing."""
    with pytest.raises(SystemExit):
        go(copy, progress=KilledAfter(number, steps))
    go(copy)

    expected, found = (load_file(out / "sparse" / "model.safetensors") for out in (finished[0], copy))
    assert expected.keys() == found.keys()
    assert all(expected[name].equal(found[name]) for name in expected)
    assert read(copy, "metrics.json") == read(finished[0], "metrics.json")
    assert read(copy, "sparsity.json") == read(finished[0], "sparsity.json")
    assert sorted(p.name for p in (copy / "sparse").iterdir()) == FILES


@pytest.mark.slow
@pytest.mark.parametrize(("number", "steps"), [(1, 1), (2, 0), (2, 2), (3, 1)], ids=str)
def test_rounds_resume(copy, rewired_run, tmp_path, number, steps):
    change = (
        "sparsify={method: imp, rounds: 3, granularity: unstructured, target: {params: 0.875}, ramp_epochs: 2, "
        "recalibrate_batches: 1, train: {epochs: 3, checkpoint_s: 0.001}}"
    )
    whole = Path(shutil.copytree(rewired_run, tmp_path / "whole"))
    _, texts = go(whole, change)
    assert [text.split(", ")[-1] for text in texts[1:]] == ["50.0% to go", "75.0% to go", "87.5% to go"]
    with pytest.raises(SystemExit):
        go(copy, change, progress=KilledAfter(number, steps))
    go(copy, change)

    expected, found = (load_file(out / "sparse" / "model.safetensors") for out in (whole, copy))
    assert all(expected[name].equal(found[name]) for name in expected)
    assert read(copy, "metrics.json") == read(whole, "metrics.json")
    records = [
        json.loads(line)["phase"] for line in (copy / "sparse" / "history.jsonl").read_text().splitlines()
    ]
    assert records == ["round 1", "round 2", "healing"]


# --- other methods


@pytest.mark.slow
@pytest.mark.parametrize("method", ["thresholds", "group_lasso", *BASELINES])
@pytest.mark.parametrize("measure", ["removable", "params"])
def test_every_method_on_channels(copy, method, measure):
    change = f"sparsify={{method: {method}, rounds: 2, target: {{{measure}: 0.4}}, train: {{epochs: 2}}}}"
    go(copy, change)

    assert_steps(copy)
    facts = read(copy, "sparsity.json")
    assert facts["reached"][measure] == pytest.approx(0.4, abs=0.01)
    if method.startswith("disparse"):
        assert 0 < facts["masks"]["facts"]["kappa"] <= 1
        assert MaskAgreement.from_dict(facts["agreement"]).layers


@pytest.mark.slow
@pytest.mark.parametrize("method", list(BASELINES))
def test_every_baseline_on_weights_keeps_its_zeros_while_healing(copy, method):
    change = (
        f"sparsify={{method: {method}, granularity: unstructured, rounds: 2, target: {{params: 0.8}}, "
        "network: dense, components: [backbone], train: {epochs: 2}}"
    )
    go(copy, change)

    assert_steps(copy, is_exact=False)
    facts = read(copy, "sparsity.json")
    assert facts["reached"]["weights"] == pytest.approx(0.8, abs=1e-4)
    assert facts["masks"]["parts"][-1]["sparsity"] == pytest.approx(0.8, abs=1e-4)
    parts = {part["name"]: part for part in facts["sparsified"]["components"]}
    assert parts["depth"]["zero_weights"] == parts["segmentation"]["zero_weights"] == 0
    if read(copy, "metrics.json")["steps"][1]["params"] == read(copy, "metrics.json")["steps"][2]["params"]:
        healed = {part["name"]: part for part in facts["healed"]["components"]}
        assert healed["backbone"]["zero_weights"] == parts["backbone"]["zero_weights"]


@pytest.mark.slow
def test_free_running_thresholds_that_fall_short_say_so(copy):
    change = (
        "sparsify={method: thresholds, granularity: unstructured, initial_logit: -9, target: {params: 0.5}, "
        "train: {epochs: 2}}"
    )
    _, texts = go(copy, change)
    share = read(copy, "sparsity.json")["reached"]["weights"]
    assert texts[-1] == (
        f"sparsify: only {share:.1%} of the weights went, of 50.0% asked for; give more epochs or a higher "
        "`sparsify.initial_logit`"
    )


# --- the rest of the run


@pytest.mark.slow
def test_prune_export_and_bench_take_the_sparse_network_along(finished, tmp_path):
    out = Path(shutil.copytree(finished[0], tmp_path / "tiny"))
    change = (
        "prune={target: sparse, params: 0.6, rounds: 2, divisor: 4, recalibrate_batches: 1, distill: {}, "
        "pruned_only: false}"
    )
    summary, texts = go(out, change, last="bench")

    assert [text.split(",")[0].split(" to ")[0] for text in texts[:2]] == [
        "prune: round 1 of 2",
        "prune: round 2 of 2",
    ]
    stored = json.loads((out / "pruned" / "metrics.json").read_text())
    assert 0.45 < stored["kept"][1] <= 0.6 < stored["kept"][0] <= 0.6**0.5
    assert len(storage.origin_of(storage.load(out / "pruned")).plans) == 3
    plan = json.loads((out / "pruned" / "plan.json").read_text())
    assert plan["params_before"] == read(out, "metrics.json")["steps"][3]["params"]
    names = ("dense.onnx", "rewired.onnx", "sparse.onnx", "model.onnx")
    sizes = [(out / "deploy" / name).stat().st_size for name in names]
    assert sizes == sorted(sizes, reverse=True)
    session = onnxruntime.InferenceSession(out / "deploy" / "sparse.onnx")
    assert [output.name for output in session.get_outputs()] == ["segmentation", "depth"]
    assert set(summary.to_dict()["speed_ups"]["1"]) >= {"rewired", "sparse", "pruned"}
