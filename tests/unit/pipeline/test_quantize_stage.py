import json
import math
from pathlib import Path

import pytest

from lomt.deploy import OnnxModel
from lomt.deploy.latency_schema import LatencyFile
from lomt.errors import ArtifactError
from lomt.pipeline import run
from lomt.pipeline.quantize_stage import share_kept
from lomt.recipe import load_recipe
from lomt.tasks import MetricInfo

RECIPE = str(Path(__file__).with_name("tiny.yaml"))
GIVEN = ("rewire.branch_points={segmentation: layer2.0, depth: layer1.0}", "data.counts.train=8")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "tiny"
    settings = ("quantize.share=0.9", "quantize.images=8", "bench.threads=[1]")
    return out, run(load_recipe(RECIPE, [*GIVEN, *settings]), out)


def test_the_file_keeps_every_task_and_says_what_it_cost(finished):
    out, summary = finished
    found = json.loads((out / "quantized" / "quantization.json").read_text())
    metrics = json.loads((out / "quantized" / "metrics.json").read_text())["metrics"]
    assert found["judged_on"] == "validation"
    assert found["images"] == 8
    assert min(found["kept"].values()) >= 0.9
    assert set(metrics) == set(found["float_metrics"]) == {"segmentation", "depth"}
    assert found["int8_bytes"] == (out / "quantized" / "int8.onnx").stat().st_size
    assert OnnxModel(out / "quantized" / "int8.onnx").tasks == ("segmentation", "depth")
    assert summary.metrics["int8"] == metrics


def test_it_is_measured_beside_the_others(finished):
    out, summary = finished
    stored = json.loads((out / "bench" / "latency.json").read_text())
    report = LatencyFile.model_validate(stored["threads"]["1"])
    assert {"dense", "rewired", "int8"} <= set(report.arms)
    assert set(stored["cost"]) == set(report.arms)
    assert report.arms["dense"].times_ms is not None
    text = str(summary)
    assert "truncated only" in text
    assert "of GEMM" in text
    assert summary.to_dict()["delta_m"] == summary.gains["rewired"].value


def test_a_recipe_without_the_block_cannot_be_asked_for_the_stage(tmp_path):
    with pytest.raises(ArtifactError, match="to have a block `quantize`, because that stage was asked for"):
        run(load_recipe(RECIPE, GIVEN, check_names=False), tmp_path / "run", last="quantize")


UP = MetricInfo("miou", "", True)
DOWN = MetricInfo("miou", "", False)
NAN = math.nan


@pytest.mark.parametrize(
    ("value", "reference", "info", "share"),
    [
        (0.45, 0.5, UP, 0.9),
        (0.5, 0.45, DOWN, 0.9),
        (0.0, 0.0, UP, 1.0),
        (0.1, 0.0, UP, math.inf),
        (0.1, 0.0, DOWN, 0.0),
        (NAN, 0.5, UP, 0.0),
        (NAN, NAN, UP, 1.0),
        (0.5, NAN, UP, 0.0),
    ],
)
def test_what_is_left_of_a_metric(value, reference, info, share):
    assert share_kept({"miou": value}, {"miou": reference}, info) == pytest.approx(share)
