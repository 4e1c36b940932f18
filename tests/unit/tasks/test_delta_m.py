import inspect
import math

import pytest

from lomt.tasks import delta_m

HIGHER = {
    "miou": True,
    "accuracy": True,
    "mean": False,
    "median": False,
    "within": True,
    "abs": False,
    "rel": False,
}

# AdapMTL's table 2 (NYU-v2, MobileNetV2, 90 % sparse); the last entries are its printed gains in percent,
# per task and overall, which are sums over metrics against its dense multitask model.
COLUMNS = {
    "segmentation": {"miou": True, "accuracy": True},
    "normals": {"mean": False, "median": False, "11.25": True, "22.5": True, "30": True},
    "depth": {"abs": False, "rel": False, "1.25": True, "1.25^2": True, "1.25^3": True},
}
DENSE = ((19.94, 48.71), (17.85, 16.21, 29.77, 72.19, 86.19), (0.64, 0.24, 58.93, 86.27, 96.16))
PUBLISHED = {
    "SNIP": (
        ((18.96, 46.93), (18.33, 16.97, 28.93, 71.21, 85.78), (0.64, 0.25, 56.75, 85.71, 95.33)),
        (-8.57, -12.03, -9.38, -9.99),
    ),
    "LTH": (
        ((19.14, 47.25), (17.67, 16.32, 29.67, 72.15, 86.22), (0.65, 0.25, 57.68, 85.89, 96.13)),
        (-7.01, -0.03, -8.32, -5.12),
    ),
    "IMP": (
        ((18.76, 48.12), (18.71, 16.68, 29.63, 71.76, 85.91), (0.64, 0.23, 59.75, 86.52, 96.31)),
        (-7.13, -9.11, 6.00, -3.41),
    ),
    "DiSparse": (
        ((19.87, 48.83), (17.92, 16.79, 29.87, 71.76, 85.64), (0.65, 0.24, 58.42, 85.72, 96.28)),
        (-0.10, -4.87, -2.94, -2.64),
    ),
    "AdapMTL without adaptive thresholds": (
        ((18.93, 47.51), (18.16, 16.87, 28.37, 71.53, 86.63), (0.65, 0.24, 58.26, 85.82, 95.92)),
        (-7.53, -10.91, -3.47, -7.30),
    ),
    "AdapMTL": (
        ((20.16, 49.14), (17.53, 15.96, 30.16, 72.36, 86.51), (0.64, 0.24, 59.03, 86.57, 96.38)),
        (1.99, 5.25, 0.75, 2.66),
    ),
}
PUBLISHED_MEANS = {
    "SNIP": -2.86,
    "LTH": -1.72,
    "IMP": -1.40,
    "DiSparse": -0.54,
    "AdapMTL without adaptive thresholds": -2.21,
    "AdapMTL": 0.73,
}


def _table(rows):
    return {
        task: dict(zip(columns, row, strict=True))
        for (task, columns), row in zip(COLUMNS.items(), rows, strict=True)
    }


@pytest.mark.parametrize("method", PUBLISHED)
def test_sum_reproduces_the_published_table(method):
    rows, gains = PUBLISHED[method]
    gain = delta_m(_table(rows), _table(DENSE), COLUMNS, baseline_name="mtl", reduction="sum")
    assert [100 * g for g in (*gain.per_task.values(), gain.value)] == pytest.approx(gains, abs=0.01)
    assert gain.skipped == ()


@pytest.mark.parametrize("method", PUBLISHED)
def test_mean_of_the_same_rows(method):
    gain = delta_m(_table(PUBLISHED[method][0]), _table(DENSE), COLUMNS, baseline_name="mtl")
    assert 100 * gain.value == pytest.approx(PUBLISHED_MEANS[method], abs=0.01)


def test_better_is_positive_whichever_way_a_metric_points():
    baseline = {"a": {"miou": 0.5, "mean": 20.0}, "b": {"abs": 1.0}}
    better = {"a": {"miou": 0.6, "mean": 18.0}, "b": {"abs": 0.8}}
    gain = delta_m(better, baseline, HIGHER, baseline_name="stl")
    assert gain.per_task == pytest.approx({"a": 0.15, "b": 0.2})
    assert gain.value == pytest.approx(0.175)
    assert delta_m(baseline, baseline, HIGHER, baseline_name="stl").value == 0


def test_sum_adds_metrics_and_still_averages_tasks():
    baseline = {"a": {"miou": 0.5, "mean": 20.0}, "b": {"abs": 1.0}}
    better = {"a": {"miou": 0.6, "mean": 18.0}, "b": {"abs": 0.8}}
    gain = delta_m(better, baseline, HIGHER, baseline_name="stl", reduction="sum")
    assert gain.value == pytest.approx((0.3 + 0.2) / 2)


def test_a_negative_baseline_does_not_turn_the_sign():
    gain = delta_m({"a": {"r2": 0.1}}, {"a": {"r2": -0.2}}, {"r2": True}, baseline_name="stl")
    assert gain.value == pytest.approx(1.5)


def test_directions_may_differ_by_task():
    directions = {"a": {"score": True}, "b": {"score": False}}
    ours, theirs = {"a": {"score": 2.0}, "b": {"score": 2.0}}, {"a": {"score": 1.0}, "b": {"score": 1.0}}
    assert delta_m(ours, theirs, directions, baseline_name="stl").per_task == {"a": 1.0, "b": -1.0}


def test_names_everything_left_out():
    ours = {"a": {"miou": 0.6, "accuracy": 0.5, "within": 0.4, "mean": 1.0}, "b": {"abs": 1.0}}
    theirs = {"a": {"miou": 0.5, "within": 0.0, "mean": math.nan}, "c": {"rel": 1.0}}
    gain = delta_m(ours, theirs, HIGHER, baseline_name="stl")
    assert gain.skipped == (
        "a.accuracy (no baseline)",
        "a.within (baseline is zero)",
        "a.mean (baseline is nan)",
        "b.abs (no baseline)",
        "c.rel (no result)",
    )
    assert gain.per_task == pytest.approx({"a": 0.2})
    assert gain.value == pytest.approx(0.2)


def test_nothing_to_compare_is_nan():
    gain = delta_m({"a": {"abs": 1.0}}, {}, HIGHER, baseline_name="stl")
    assert math.isnan(gain.value)
    assert gain.per_task == {}


def test_a_result_that_is_nan_is_not_hidden():
    baseline = {"a": {"abs": 1.0}, "b": {"abs": 1.0}}
    gain = delta_m({"a": {"abs": math.nan}, "b": {"abs": 1.0}}, baseline, HIGHER, baseline_name="stl")
    assert math.isnan(gain.value)
    assert gain.skipped == ()


def test_prints_reduction_and_baseline():
    ours = {"a": {"abs": 0.9, "rel": 1.0}, "b": {"abs": 1.04}}
    theirs = {"a": {"abs": 1.0}, "b": {"abs": 1.0}}
    text = str(delta_m(ours, theirs, HIGHER, baseline_name="dense mtl", reduction="sum"))
    assert text == (
        "delta_m +3.00% (sum over metrics, baseline dense mtl)\n"
        "  per task: a +10.00%, b -4.00%\n"
        "  left out: a.rel (no baseline)"
    )


def test_refuses_another_reduction():
    with pytest.raises(ValueError) as caught:
        # Unwrapped: while tests run, the annotation alone would refuse it.
        inspect.unwrap(delta_m)({}, {}, {}, baseline_name="stl", reduction="max")
    assert str(caught.value) == "Expected `reduction` to be 'mean' or 'sum', but got 'max'."


@pytest.mark.parametrize("directions", [{}, {"a": {"rel": True}}])
def test_refuses_a_metric_without_direction(directions):
    with pytest.raises(ValueError) as caught:
        delta_m({"a": {"abs": 1.0}}, {"a": {"abs": 1.0}}, directions, baseline_name="stl")
    assert str(caught.value) == (
        "Expected `higher_is_better` to have an entry for metric `abs` of task `a`, but got none."
    )
