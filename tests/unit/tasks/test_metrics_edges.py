import math

import pytest
import torch

from lomt.tasks import make_task
from tests.reference import task_metrics as reference


def _numbers(prediction: torch.Tensor, target: torch.Tensor) -> dict[str, float]:
    metrics = make_task("edges", "edges", 1).metrics
    return metrics.compute(metrics.statistics(prediction, target))


@pytest.mark.parametrize("signal", [0.0, 1.0, 4.0])
@pytest.mark.parametrize("seed", range(2))
def test_equals_the_reference(signal, seed, batch_of, device):
    prediction, target, _ = batch_of("edges", 10, seed=seed, dtype=torch.float64)
    prediction = prediction + signal * target
    numbers = _numbers(prediction.to(device), target.to(device))
    assert numbers == pytest.approx(reference.edges(prediction.numpy(), target.numpy()), rel=1e-9)


def test_one_threshold_serves_the_whole_set():
    """Each image alone has a perfect threshold; no single one suits both."""
    target = torch.tensor([[1.0, 0.0], [1.0, 0.0]]).view(2, 1, 1, 2)
    prediction = torch.tensor([[3.0, 2.0], [1.0, 0.0]]).view(2, 1, 1, 2)
    assert _numbers(prediction[:1], target[:1])["ods_f"] == 1
    assert _numbers(prediction[1:], target[1:])["ods_f"] == 1
    assert _numbers(prediction, target)["ods_f"] == pytest.approx(2 * 2 / (3 + 2))


def test_saturated_scores_fall_into_the_outer_bins():
    target = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)
    numbers = _numbers(torch.tensor([100.0, -100.0]).view(1, 1, 1, 2), target)
    assert numbers == pytest.approx({"ods_f": 1.0, "ap": 1.0, "mae": 0.0})


def test_without_any_edge_only_the_error_is_defined():
    numbers = _numbers(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2))
    assert math.isnan(numbers["ods_f"]) and math.isnan(numbers["ap"])
    assert numbers["mae"] == 0.5


def test_faint_edges_are_none():
    target = torch.tensor([0.9, 0.4]).view(1, 1, 1, 2)
    assert _numbers(torch.tensor([0.0, 2.0]).view(1, 1, 1, 2), target)["ods_f"] == pytest.approx(2 / 3)
