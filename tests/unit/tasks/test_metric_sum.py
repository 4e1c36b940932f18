import pytest
import torch

from lomt.tasks import KINDS, MetricSum


@pytest.mark.parametrize("kind", KINDS)
def test_batches_add_up_to_the_set(kind, batch_of, task_of, device):
    prediction, target, _ = batch_of(kind)
    task = task_of(kind)
    total = MetricSum(task)
    for p, t in zip(prediction.split(4), target.split(4), strict=True):
        total.update(p.to(device), t.to(device))
    whole = task.metrics.statistics(prediction, target)
    torch.testing.assert_close(total.statistics.cpu(), whole)
    assert total.statistics.device.type == device
    assert total.compute() == pytest.approx(task.metrics.compute(whole))


def test_is_zeros_before_the_first_update(task_of, device):
    task = task_of("normals")
    statistics = MetricSum(task, device).statistics
    assert torch.equal(statistics.cpu(), torch.zeros(task.metrics.length, dtype=torch.float64))
    assert statistics.device.type == device


def test_a_refused_batch_changes_nothing(batch_of, task_of):
    prediction, target, _ = batch_of("segmentation")
    total = MetricSum(task_of("segmentation"))
    total.update(prediction, target)
    before = total.statistics.clone()
    with pytest.raises(ValueError, match="task `segmentation`"):
        total.update(prediction, target + 9)
    assert torch.equal(total.statistics, before)
