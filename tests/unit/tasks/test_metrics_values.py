import math

import pytest
import torch

from lomt.tasks import make_task
from tests.reference import task_metrics as reference


@pytest.mark.parametrize("kind", ["keypoints", "regression"])
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_reference(kind, seed, batch_of, task_of, device):
    prediction, target, _ = batch_of(kind, 20, seed=seed)
    metrics = task_of(kind).metrics
    numbers = metrics.compute(metrics.statistics(prediction.to(device), target.to(device)))
    expected = getattr(reference, kind)(prediction.double().numpy(), target.double().numpy())
    assert numbers == pytest.approx(expected, rel=1e-6)


def _r2(prediction: torch.Tensor, target: torch.Tensor) -> float:
    metrics = make_task("age", "regression", prediction.shape[1]).metrics
    return metrics.compute(metrics.statistics(prediction, target))["r2"]


def test_r2_leaves_out_outputs_that_do_not_vary():
    target = torch.tensor([[1.0, 0.1], [2.0, 0.1], [3.0, 0.1]])
    prediction = target + torch.tensor([[0.0, 1.0], [0.0, 1.0], [1.0, 1.0]])
    assert _r2(prediction, target) == pytest.approx(1 - 1 / 2)
    assert math.isnan(_r2(prediction[:, 1:], target[:, 1:]))


def test_r2_survives_a_large_mean():
    target = torch.tensor([[1000.0], [1001.0], [1002.0]], dtype=torch.float64)
    prediction = target + torch.tensor([[0.0], [0.0], [1.0]], dtype=torch.float64)
    assert _r2(prediction, target) == pytest.approx(0.5, rel=1e-6)
