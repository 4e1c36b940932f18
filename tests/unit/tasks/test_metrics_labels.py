import pytest
import torch

from lomt.tasks import make_task
from tests.reference import task_metrics as reference


@pytest.mark.parametrize("kind", ["segmentation", "classification", "multilabel"])
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_reference(kind, seed, batch_of, task_of, device):
    prediction, target, _ = batch_of(kind, 30, seed=seed)
    metrics = task_of(kind).metrics
    numbers = metrics.compute(metrics.statistics(prediction.to(device), target.to(device)))
    expected = getattr(reference, kind)(prediction.numpy(), target.numpy())
    assert numbers == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", ["segmentation", "classification"])
@pytest.mark.parametrize("classes", [20, 300])
def test_absent_classes_are_left_out(kind, classes):
    """Only three classes ever occur; 300 classes need more than a byte."""
    generator = torch.Generator().manual_seed(0)
    shape = (20, 4, 4) if kind == "segmentation" else (50,)
    target = 7 * torch.randint(0, 3, shape, generator=generator)
    guess = 7 * torch.randint(0, 3, shape, generator=generator)
    prediction = torch.nn.functional.one_hot(guess, classes).movedim(-1, 1).float()
    metrics = make_task("mine", kind, classes).metrics
    numbers = metrics.compute(metrics.statistics(prediction, target))
    assert numbers == pytest.approx(getattr(reference, kind)(prediction.numpy(), target.numpy()), rel=1e-12)


def test_iou_by_hand():
    """One pixel right of class 0, one of class 0 called 1, one of class 1 right; class 2 nowhere."""
    target = torch.tensor([[[0, 0, 1]]])
    prediction = torch.nn.functional.one_hot(torch.tensor([[[0, 1, 1]]]), 3).movedim(-1, 1).float()
    metrics = make_task("mine", "segmentation", 3).metrics
    statistics = metrics.statistics(prediction, target)
    assert statistics.tolist() == [1, 1, 0, 1, 2, 0, 2, 1, 0]
    assert metrics.compute(statistics) == pytest.approx({"miou": 0.5, "pixel_accuracy": 2 / 3})


def test_miou_is_that_of_the_set_not_the_mean_of_images():
    metrics = make_task("mine", "segmentation", 2).metrics
    target = torch.tensor([[[0, 0, 0, 0]], [[0, 0, 0, 1]]])
    prediction = torch.nn.functional.one_hot(torch.zeros_like(target), 2).movedim(-1, 1).float()
    assert metrics.compute(metrics.statistics(prediction, target))["miou"] == pytest.approx((7 / 8 + 0) / 2)


@pytest.mark.parametrize("classes", [3, 300])
def test_ties_go_to_the_lowest_class(classes):
    metrics = make_task("mine", "classification", classes).metrics
    prediction = torch.zeros(2, classes)
    prediction[1, 1:] = 1
    assert metrics.compute(metrics.statistics(prediction, torch.tensor([0, 1])))["accuracy"] == 1
    prediction.fill_(-torch.inf)
    assert metrics.compute(metrics.statistics(prediction, torch.tensor([0, 0])))["accuracy"] == 1


def test_a_label_at_one_half_is_not_predicted():
    metrics = make_task("mine", "multilabel", 1).metrics
    numbers = metrics.compute(metrics.statistics(torch.tensor([[0.0], [1e-3]]), torch.tensor([[0.0], [1.0]])))
    assert numbers == {"macro_f1": 1.0, "accuracy": 1.0}
