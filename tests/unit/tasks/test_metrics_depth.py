import pytest
import torch

from lomt.tasks import make_task
from tests.reference import task_metrics as reference


@pytest.mark.parametrize("seed", range(3))
def test_equals_the_reference(seed, batch_of, task_of, device):
    prediction, target, _ = batch_of("depth", 20, seed=seed)
    prediction = target + 0.5 * prediction  # near enough for every ratio, sometimes negative
    metrics = task_of("depth").metrics
    numbers = metrics.compute(metrics.statistics(prediction.to(device), target.to(device)))
    assert numbers == pytest.approx(reference.depth(prediction.numpy(), target.numpy()), rel=1e-6)


def test_by_hand():
    """Ratios 1.25 (not below the limit), 1.5, 1 and, raised to a millimetre, 1000."""
    target = torch.tensor([1.0, 2.0, 4.0, 1.0, 0.0]).view(1, 1, 1, 5)
    prediction = torch.tensor([1.25, 3.0, 4.0, -1.0, 9.0]).view(1, 1, 1, 5)
    metrics = make_task("depth", "depth", 1).metrics
    numbers = metrics.compute(metrics.statistics(prediction, target))
    assert numbers == pytest.approx(
        {
            "abs_error": 3.25 / 4,
            "rel_error": (0.25 + 0.5 + 2) / 4,
            "rmse": ((0.0625 + 1 + 4) / 4) ** 0.5,
            "delta1": 1 / 4,
            "delta2": 3 / 4,
            "delta3": 3 / 4,
        }
    )
