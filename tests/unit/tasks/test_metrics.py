"""Laws that hold for the metrics of every kind."""

import math

import pytest
import torch

from lomt.tasks import KINDS, METRICS

INFOS = {
    "segmentation": {"miou": True, "pixel_accuracy": True},
    "depth": {
        "abs_error": False,
        "rel_error": False,
        "rmse": False,
        "delta1": True,
        "delta2": True,
        "delta3": True,
    },
    "normals": {
        "mean_deg": False,
        "median_deg": False,
        "within_11.25": True,
        "within_22.5": True,
        "within_30": True,
    },
    "edges": {"ods_f": True, "ap": True, "mae": False},
    "keypoints": {"mae": False, "rmse": False},
    "classification": {"accuracy": True, "macro_f1": True},
    "multilabel": {"macro_f1": True, "accuracy": True},
    "regression": {"mae": False, "rmse": False, "r2": True},
}


def assert_halves_equal_whole(metrics, prediction, target, cut):
    halves = sum(
        metrics.statistics(p, t)
        for p, t in ((prediction[:cut], target[:cut]), (prediction[cut:], target[cut:]))
    )
    whole = metrics.statistics(prediction, target)
    torch.testing.assert_close(halves, whole, rtol=1e-12, atol=1e-12)
    assert metrics.compute(halves) == pytest.approx(metrics.compute(whole), rel=1e-9, nan_ok=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cut", [0, 1, 3])
def test_halves_equal_whole(kind, cut, batch_of, task_of, device):
    prediction, target, _ = batch_of(kind, dtype=torch.float64)
    assert_halves_equal_whole(task_of(kind).metrics, prediction.to(device), target.to(device), cut)


@pytest.mark.parametrize("kind", KINDS)
def test_order_of_samples_does_not_matter(kind, batch_of, task_of):
    prediction, target, _ = batch_of(kind)
    metrics = task_of(kind).metrics
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    torch.testing.assert_close(
        metrics.statistics(prediction[order], target[order]), metrics.statistics(prediction, target)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_ignored_entries_have_no_influence(kind, batch_of, task_of):
    prediction, target, ignored = batch_of(kind)
    where = ignored.unsqueeze(1) if target.ndim < prediction.ndim else ignored
    metrics = task_of(kind).metrics
    expected = metrics.statistics(prediction, target)
    for junk in (torch.randn_like(prediction), torch.full_like(prediction, torch.nan)):
        statistics = metrics.statistics(torch.where(where, junk, prediction), target)
        torch.testing.assert_close(statistics, expected, rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_nan_prediction_makes_every_number_nan(kind, batch_of, task_of):
    prediction, target, ignored = batch_of(kind)
    where = ignored.unsqueeze(1) if target.ndim < prediction.ndim else ignored
    first_labelled = tuple((~where.expand_as(prediction)).nonzero()[0])
    prediction[first_labelled] = torch.nan
    metrics = task_of(kind).metrics
    numbers = metrics.compute(metrics.statistics(prediction, target))
    assert list(numbers) == list(INFOS[kind])
    assert all(math.isnan(number) for number in numbers.values())


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_labelled_gives_zero_statistics_and_nan(kind, batch_of, task_of, device):
    prediction, target, _ = batch_of(kind)
    metrics = task_of(kind).metrics
    blank = torch.full_like(target, {"depth": 0, "normals": 0, "regression": torch.nan}.get(kind, -1))
    for p, t in ((prediction, blank), (prediction[:0], target[:0])):
        statistics = metrics.statistics(p.to(device), t.to(device))
        assert torch.equal(statistics.cpu(), torch.zeros(metrics.length, dtype=torch.float64))
        assert all(math.isnan(number) for number in metrics.compute(statistics).values())


@pytest.mark.parametrize("kind", KINDS)
def test_statistics_are_double_flat_detached_and_stay_on_the_device(kind, batch_of, task_of, device):
    prediction, target, _ = batch_of(kind)
    metrics = task_of(kind).metrics
    for dtype in (torch.float32, torch.bfloat16):
        statistics = metrics.statistics(prediction.to(device, dtype).requires_grad_(), target.to(device))
        assert statistics.dtype == torch.float64
        assert statistics.shape == (metrics.length,)
        assert statistics.device.type == device
        assert not statistics.requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_facts_name_what_is_computed_primary_first(kind, batch_of, task_of):
    prediction, target, _ = batch_of(kind)
    task = task_of(kind)
    numbers = task.metrics.compute(task.metrics.statistics(prediction, target))
    assert list(numbers) == [info.name for info in task.metrics.infos] == list(INFOS[kind])
    assert task.metrics.higher_is_better == INFOS[kind]
    assert task.primary_metric.name == next(iter(INFOS[kind]))
    assert all(type(number) is float for number in numbers.values())


@pytest.mark.parametrize("kind", KINDS)
def test_a_perfect_prediction_has_the_best_numbers(kind, batch_of, task_of):
    _, target, _ = batch_of(kind, 40)
    if KINDS[kind].holds_labels:
        classes = task_of(kind).out_channels
        prediction = torch.stack([(target == c).float() for c in range(classes)], dim=1)
    elif kind in ("edges", "keypoints", "multilabel"):
        prediction = torch.logit(target.clamp(0, 1), eps=1e-9)
    else:
        prediction = target.nan_to_num()
    metrics = task_of(kind).metrics
    numbers = metrics.compute(metrics.statistics(prediction, target))
    best = {name: float(is_better) for name, is_better in INFOS[kind].items()}
    assert numbers == pytest.approx(best, abs=0.01 if kind == "normals" else 1e-4)


def test_every_kind_has_metrics():
    assert list(METRICS) == list(KINDS)


def test_refuses_statistics_of_another_length(task_of):
    with pytest.raises(ValueError) as caught:
        task_of("depth").metrics.compute(torch.zeros(8, dtype=torch.float64))
    assert str(caught.value) == "Expected `statistics` of task `depth` to have shape (7,), but got (8,)."
