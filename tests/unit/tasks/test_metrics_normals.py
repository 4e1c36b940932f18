import math

import pytest
import torch

from lomt.tasks import make_task
from tests.reference import task_metrics as reference

HALF_BIN_DEG = 0.005


def _tilted(*degrees: float) -> torch.Tensor:
    angles = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    vectors = torch.stack([angles.sin(), torch.zeros_like(angles), angles.cos()])
    return vectors.float().view(1, 3, 1, -1)


def _numbers(prediction: torch.Tensor, target: torch.Tensor) -> dict[str, float]:
    metrics = make_task("normals", "normals", 3).metrics
    return metrics.compute(metrics.statistics(prediction, target))


@pytest.mark.parametrize("noise", [0.001, 0.3, 2.0])
@pytest.mark.parametrize("batch", [5, 8])
def test_equals_the_reference(noise, batch, batch_of, task_of, device):
    prediction, target, _ = batch_of("normals", batch)
    prediction = 7 * (target + noise * prediction)
    metrics = task_of("normals").metrics
    numbers = metrics.compute(metrics.statistics(prediction.to(device), target.to(device)))
    expected = reference.normals(prediction.numpy(), target.numpy())
    assert numbers.pop("median_deg") == pytest.approx(expected.pop("median_deg"), abs=HALF_BIN_DEG * 1.001)
    assert numbers == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("degrees", [0.0, 0.001, 0.0123, 45.0, 179.99, 180.0])
def test_small_and_large_angles_are_exact_in_single_precision(degrees):
    numbers = _numbers(_tilted(degrees), _tilted(0.0))
    assert numbers["mean_deg"] == pytest.approx(degrees, abs=2e-5)
    assert numbers["median_deg"] == pytest.approx(degrees, abs=HALF_BIN_DEG * 1.01)


def test_median_of_an_even_number_is_between_the_middle_ones():
    numbers = _numbers(_tilted(1.0, 2.0, 40.0, 50.0), _tilted(0.0).expand(1, 3, 1, 4))
    assert numbers["median_deg"] == pytest.approx(21, abs=2 * HALF_BIN_DEG)
    numbers = _numbers(_tilted(1.0, 2.0, 40.0), _tilted(0.0).expand(1, 3, 1, 3))
    assert numbers["median_deg"] == pytest.approx(2, abs=2 * HALF_BIN_DEG)


@pytest.mark.parametrize("length", [1e-30, 1e-3, 1e30])
def test_length_of_the_prediction_does_not_matter(length):
    assert _numbers(length * _tilted(20.0), _tilted(0.0))["mean_deg"] == pytest.approx(20, abs=1e-4)


def test_no_direction_counts_as_a_right_angle():
    assert _numbers(torch.zeros(1, 3, 1, 1), _tilted(0.0))["mean_deg"] == 90


def test_limits_are_exclusive():
    target = _tilted(0.0).expand(1, 3, 1, 4)
    numbers = _numbers(_tilted(11.2, 11.3, 22.6, 30.1), target)
    assert [numbers[f"within_{d}"] for d in ("11.25", "22.5", "30")] == [0.25, 0.5, 0.75]
    assert math.isclose(numbers["mean_deg"], (11.2 + 11.3 + 22.6 + 30.1) / 4, rel_tol=1e-6)
