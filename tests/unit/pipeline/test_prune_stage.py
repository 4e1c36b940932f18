import json
import shutil
from pathlib import Path

import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

from lomt import pipeline
from lomt.compress.prune import prune
from lomt.errors import ArtifactError, LomtError, UnknownNameError
from lomt.models import load_model
from lomt.pipeline import prune_rounds
from lomt.pipeline.export_stage import onnx_files
from lomt.pruning import storage
from lomt.pruning.plan import PruningPlan
from lomt.recipe import load_recipe
from lomt.training.checkpoint import load_checkpoint
from tests.unit.pipeline.messages import Messages
from tests.unit.pipeline.tiny import POINTS, RECIPE

PRUNE = (
    "prune={macs: 0.5, rounds: 2, importance: task_union, loss_batches: 2, recalibrate_batches: 2, distill: {}, "
    "pruned_only: false, train: {checkpoint_s: 0.001}}"
)


def go(out, *overrides, progress=None, **choices):
    told = progress or Messages()
    recipe = load_recipe(str(RECIPE), (POINTS, PRUNE, *overrides))
    summary = pipeline.run(recipe, out, progress=told, **{"last": "prune", **choices})
    return summary, getattr(told, "texts", [])


@pytest.fixture(scope="module")
def finished(rewired_run, tmp_path_factory):
    out = Path(shutil.copytree(rewired_run, tmp_path_factory.mktemp("runs") / "tiny"))
    summary, texts = go(out)
    return out, summary, texts


def read(out, name):
    return json.loads((out / "pruned" / name).read_text())


def test_it_leaves_its_artefacts_and_says_what_it_does(finished):
    out, _, texts = finished
    assert texts == [
        "prune: round 1 of 2, rewired network to 70.7% of its macs",
        "prune: round 2 of 2, rewired network to 50.0% of its macs",
    ]
    assert sorted(p.name for p in (out / "pruned").iterdir()) == [
        "history.jsonl",
        "metrics.json",
        "model.safetensors",
        "plan.json",
        "stage.json",
        "structure.json",
    ]
    records = [json.loads(line) for line in (out / "pruned" / "history.jsonl").read_text().splitlines()]
    assert [(record["round"], record["epoch"]) for record in records] == [(1, 0), (2, 0)]


def test_the_budget_is_met_round_by_round(finished):
    out, _, _ = finished
    first, second = read(out, "metrics.json")["kept"]
    plan = PruningPlan.from_dict(read(out, "plan.json"))

    assert 0.5 < first <= 0.5**0.5
    assert 0.3 < second <= 0.5
    assert plan.macs_after / plan.macs_before == pytest.approx(second)
    model, rewired = storage.load(out / "pruned"), load_model(out / "rewired")
    assert sum(p.numel() for p in model.parameters()) == plan.params_after
    assert sum(p.numel() for p in rewired.parameters()) == plan.params_before
    assert sum(c.params[0] for c in plan.components) == plan.params_before
    assert sum(c.params[1] for c in plan.components) == plan.params_after


def test_the_saved_model_knows_its_past_and_its_tasks(finished):
    out, _, _ = finished
    model = storage.load(out / "pruned")

    assert model.branch_points == {"segmentation": "layer3", "depth": "layer2"}
    assert {name: tuple(value.shape) for name, value in model(torch.rand(2, 3, 32, 48)).items()} == {
        "segmentation": (2, load_model(out / "dense").spec.out_channels["segmentation"], 32, 48),
        "depth": (2, 1, 32, 48),
    }
    assert len(storage.origin_of(model).plans) == 2


def test_the_summary_shows_each_network_against_the_dense_one(finished):
    _, summary, _ = finished
    text = str(summary)

    assert text.splitlines()[2].split()[-5:] == ["dense", "rewired", "change", "pruned", "change"]
    assert "rewired: delta_m" in text
    assert "pruned: delta_m" in text
    values = summary.to_dict()
    assert list(values["metrics"]) == ["dense", "rewired", "pruned"]
    assert values["delta_m"] == values["delta_m_by_network"]["pruned"]


def test_a_second_run_does_nothing(finished):
    out, summary, _ = finished
    again, texts = go(out)

    assert texts == []
    assert again.to_dict() == summary.to_dict()


def test_files_to_deploy():
    plain = load_recipe(str(RECIPE), (POINTS,))
    pruned = load_recipe(str(RECIPE), (POINTS, PRUNE))
    assert onnx_files(plain) == {"dense": "dense.onnx", "rewired": "model.onnx"}
    assert onnx_files(pruned) == {"dense": "dense.onnx", "rewired": "rewired.onnx", "pruned": "model.onnx"}


def test_the_dense_network_is_cut_to_what_the_other_has_left(finished, tmp_path):
    out = Path(shutil.copytree(finished[0], tmp_path / "tiny"))
    summary, texts = go(out, "prune.pruned_only=true")

    assert [text.split(" to ")[0] for text in texts] == [
        "prune: round 1 of 2, dense network",
        "prune: round 2 of 2, dense network",
    ]
    left = PruningPlan.from_dict(read(out, "plan.json")).macs_after
    plan = PruningPlan.from_dict(json.loads((out / "pruned_only" / "plan.json").read_text()))
    assert 0.7 * left < plan.macs_after <= left < plan.macs_before
    only = storage.load(out / "pruned_only")
    assert only.branch_points == load_model(out / "dense").branch_points
    assert sum(p.numel() for p in only.parameters()) == plan.params_after
    assert list(summary.to_dict()["metrics"]) == ["dense", "rewired", "pruned_only", "pruned"]
    again, texts = go(out, "prune.pruned_only=true")
    assert texts == []
    assert again.to_dict() == summary.to_dict()


def test_a_comparison_out_of_reach_says_how_to_do_without(finished, tmp_path):
    out = Path(shutil.copytree(finished[0], tmp_path / "tiny"))
    plan = json.loads((out / "pruned" / "plan.json").read_text())
    (out / "pruned" / "plan.json").write_text(json.dumps({**plan, "macs_after": 1}))
    with pytest.raises(LomtError, match=r"--set prune\.pruned_only=false\.$"):
        go(out, "prune.pruned_only=true")


def test_a_recipe_without_the_block_has_no_such_stage(copy):
    with pytest.raises(ArtifactError) as caught:
        go(copy, "prune=null", first="prune")
    assert str(caught.value) == (
        "Expected recipe `tiny` to have a block `prune`, because that stage was asked for, but it has none. "
        "Give a budget, for example with --set prune.macs=0.5."
    )
    assert not (copy / "pruned").exists()


def test_a_budget_out_of_reach_says_what_is_in_reach_and_in_which_round(copy):
    with pytest.raises(
        LomtError, match=r"^Round 1 of 1 of stage prune: Expected `macs` to be at least 0\.\d+, all"
    ):
        go(copy, "prune={macs: 0.01, minimum: 0.5}")


def test_a_protected_name_that_matches_nothing_is_named(copy):
    with pytest.raises(UnknownNameError, match="layr1"):
        go(copy, "prune={macs: 0.9, protect: [layr1]}")


class Clock:
    """Says how long networks take."""

    times_ms = (16.0, 9.0)

    def __init__(self, model, example_inputs, *, threads):
        assert tuple(example_inputs.shape) == (1, 3, 32, 48)
        self.time_ms = self.times_ms[len(type(self).asked)]
        type(self).asked.append(threads)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def dense_ms(self):
        return self.time_ms


def test_a_latency_is_approached_round_by_round_by_the_same_factor(copy, monkeypatch):
    asked = []

    def cut(model, inputs, *, latency_ms, threads, **settings):
        asked.append((latency_ms, threads, settings.pop("macs")))
        return prune(model, inputs, macs=0.7, **settings)

    monkeypatch.setattr(Clock, "asked", [], raising=False)
    monkeypatch.setattr(prune_rounds, "NetworkGauge", Clock)
    monkeypatch.setattr(prune_rounds, "prune", cut)
    change = (
        "prune={latency_ms: 4, macs: null, rounds: 2, threads: 2, recalibrate_batches: 0, pruned_only: false}"
    )
    _, texts = go(copy, change)

    assert asked == [(8.0, 2, None), (4.0, 2, None)]
    assert Clock.asked == [2, 2]
    assert texts == [
        "prune: round 1 of 2, rewired network to 8 ms",
        "prune: round 2 of 2, rewired network to 4 ms",
    ]
    written = read(copy, "metrics.json")
    assert written["budget"] == {"latency_ms": 4}
    assert written["kept_of"] == "macs"
    assert 0.2 < written["kept"][1] < written["kept"][0] <= 0.7


@pytest.mark.slow
def test_a_measured_latency_is_met(copy):
    go(copy, "prune={latency_ms: 1000, macs: null, rounds: 1, pruned_only: false}")
    (kept,) = read(copy, "metrics.json")["kept"]
    assert kept == 1
    with pytest.raises(
        LomtError, match=r"^Round 1 of 1 of stage prune: Expected `latency_ms` to be at least"
    ):
        go(copy, "prune={latency_ms: 0.0001, macs: null, rounds: 1}")


# --- killed and resumed


class KilledAfter(Messages):
    """Ends the process's work in a round, at its message or after some steps of its training."""

    def __init__(self, number, steps):
        super().__init__()
        self.number, self.steps = number, steps

    def message(self, text):
        super().message(text)
        self._check()

    def advance(self, count=1, **figures):
        if self._is_there:
            self.steps -= 1
        self._check()

    @property
    def _is_there(self):
        return bool(self.texts) and self.texts[-1].startswith(f"prune: round {self.number} ")

    def _check(self):
        if self._is_there and self.steps == 0:
            raise SystemExit


def check_start_of_second_round(place):
    """The cut network has new statistics, and the first step was the fourth of the optimizer."""
    tracked = {name: v for name, v in storage.load(place / "cut").state_dict().items() if "tracked" in name}
    assert tracked
    assert all(count == 2 for count in tracked.values())
    state = load_checkpoint(place / "train.checkpoint")
    assert state.facts["step"] == 1
    steps = [value for name, value in state.part("optimizer").items() if name.endswith(".step")]
    assert steps
    assert all(value == 4 for value in steps)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "steps"), [(1, 2), (2, 0), (2, 2), (2, 4)])
def test_killed_and_resumed_equals_uninterrupted(finished, copy, number, steps):
    """In a round's training, before and in the next, and while testing."""
    with pytest.raises(SystemExit):
        go(copy, progress=KilledAfter(number, steps))
    if (number, steps) == (2, 2):
        check_start_of_second_round(copy / "pruned" / "round_2")
    _, texts = go(copy)

    assert len(texts) <= 2 - number + (steps == 0)
    expected, found = (load_file(out / "pruned" / "model.safetensors") for out in (finished[0], copy))
    assert expected.keys() == found.keys()
    assert all(expected[name].equal(found[name]) for name in expected)
    assert read(copy, "plan.json") == read(finished[0], "plan.json")
    assert read(copy, "metrics.json") == read(finished[0], "metrics.json")


@pytest.mark.slow
def test_without_a_teacher_only_labels_count(finished, copy):
    go(copy, "prune.distill=null", "prune.rounds=1", "prune.macs=0.70710678")
    losses = []
    for out in (finished[0], copy):
        record = json.loads((out / "pruned" / "history.jsonl").read_text().splitlines()[0])
        losses.append(record["train_loss"])

    assert all(losses[0][task] > 1.01 * losses[1][task] for task in ("segmentation", "depth"))


# --- the rest of the run


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        "{target: dense, channels: 0.5, importance: taylor, loss_batches: 1, recalibrate_batches: 0}",
        "{params: 0.4, importance: task_weighted, ranking: component, rounds: 2, divisor: 4, pruned_only: false}",
    ],
)
def test_other_settings(copy, settings):
    summary, texts = go(copy, f"prune={settings}")

    stored = read(copy, "metrics.json")
    ((_, budget),) = stored["budget"].items()
    assert 0.5 * budget < stored["kept"][-1] <= budget
    assert all(f"{stored['target']} network to" in text for text in texts)
    assert storage.load(copy / "pruned").branch_points == stored["branch_points"]
    assert set(summary.metrics) == {"dense", "rewired", "pruned"}


@pytest.mark.slow
def test_export_and_bench_take_the_pruned_network_along(finished, tmp_path):
    out = Path(shutil.copytree(finished[0], tmp_path / "tiny"))
    summary, texts = go(out, last="bench")

    assert [text.split(":")[0] for text in texts] == ["export", "bench"]
    sizes = [(out / "deploy" / name).stat().st_size for name in ("dense.onnx", "rewired.onnx", "model.onnx")]
    assert sizes == sorted(sizes, reverse=True)
    session = onnxruntime.InferenceSession(out / "deploy" / "model.onnx")
    assert [output.name for output in session.get_outputs()] == ["segmentation", "depth"]
    verified = json.loads((out / "deploy" / "verification.json").read_text())["files"]
    assert verified["model.onnx"]["metrics"]["depth"]["abs_error"] == pytest.approx(
        summary.metrics["pruned"]["depth"]["abs_error"], rel=1e-3
    )
    costs = summary.to_dict()["costs"]
    assert costs["pruned"]["macs"] < 0.55 * costs["rewired"]["macs"]
    assert set(summary.to_dict()["speed_ups"]["1"]) == {
        "rewired",
        "pruned",
        "task segmentation",
        "task depth",
    }
