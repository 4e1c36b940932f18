from math import comb

import numpy as np
import pytest

from lomt.deploy import SpeedUp
from lomt.deploy.latency_statistics import _sign_rank, _t_quantile, paired_speed_up, summarise


def test_the_summary_is_numpys():
    times = np.random.default_rng(0).gamma(9.0, size=137)
    found = summarise(times.tolist())
    assert found.count == 137
    assert found.mean_ms == pytest.approx(np.mean(times))
    assert found.min_ms == times.min()
    assert found.p50_ms == pytest.approx(np.median(times))
    for percent, value in ((90, found.p90_ms), (95, found.p95_ms), (99, found.p99_ms)):
        assert value == pytest.approx(np.percentile(times, percent))
    assert found.std_ms == pytest.approx(np.std(times, ddof=1))
    assert found.cov == pytest.approx(np.std(times, ddof=1) / np.mean(times))


def test_the_ratio_is_the_geometric_mean_and_inverts_exactly():
    baseline, arm = [4.0, 9.0, 6.0], [2.0, 3.0, 6.0]
    there, back = paired_speed_up(baseline, arm), paired_speed_up(arm, baseline)
    assert there.ratio == pytest.approx((2 * 3 * 1) ** (1 / 3))
    assert back.ratio == pytest.approx(1 / there.ratio)
    assert there.low <= there.ratio <= there.high


def test_rounds_are_paired():
    # the machine slows down threefold from round to round, the ratio does not move
    found = paired_speed_up([1.0, 3.0, 9.0], [0.5, 1.5, 4.5])
    assert (found.low, found.ratio, found.high) == pytest.approx((2, 2, 2))


def test_the_interval_is_seeded():
    baseline, arm = [1.0, 1.1, 1.3, 1.2, 1.6], [1.0, 0.9, 1.0, 1.1, 1.0]
    assert paired_speed_up(baseline, arm, seed=3) == paired_speed_up(baseline, arm, seed=3)
    assert paired_speed_up(baseline, arm, seed=3).low == pytest.approx(
        paired_speed_up(baseline, arm, seed=4).low, rel=0.02
    )


def plain_interval(logs, seed):
    drawn = np.random.default_rng(seed).choice(logs, size=(2000, len(logs)))
    return np.quantile(drawn.mean(axis=1), [0.025, 0.975])


def test_the_interval_covers_the_truth_where_plain_percentiles_do_not():
    truth, covered, covered_plainly = np.log(1.3), 0, 0
    generator = np.random.default_rng(0)
    for trial in range(300):
        logs = truth + generator.normal(0, 0.05, size=5)
        found = paired_speed_up(np.exp(logs).tolist(), [1.0] * 5, seed=trial)
        covered += found.low <= np.exp(truth) <= found.high
        low, high = plain_interval(logs, trial)
        covered_plainly += low <= truth <= high
    assert covered / 300 > 0.90
    assert covered_plainly / 300 < 0.90


@pytest.mark.parametrize(
    ("degrees", "quantile"), [(1, 12.706), (4, 2.776), (10, 2.228), (11, 2.201), (20, 2.086), (100, 1.984)]
)
def test_t_quantiles_are_those_of_any_printed_table(degrees, quantile):
    assert _t_quantile(degrees) == pytest.approx(quantile, rel=1e-3)


@pytest.mark.parametrize(
    ("speed_up", "text"),
    [
        (SpeedUp(2.0, 1.9, 2.1), "2.00x [1.900, 2.100]"),
        (SpeedUp(0.5, 0.4, 0.6), "0.50x [0.400, 0.600]"),
        (SpeedUp(1.2, 0.9, 1.4), "not distinguishable [0.900, 1.400]"),
        (SpeedUp(1.2, 1.0, 1.4), "not distinguishable [1.000, 1.400]"),
    ],
)
def test_a_speed_up_is_printed_only_when_its_interval_excludes_one(speed_up, text):
    assert str(speed_up) == text
    assert speed_up.is_distinguishable == ("not" not in text)


@pytest.mark.parametrize(
    ("floor", "noise"),
    [
        (SpeedUp(1.05, 0.98, 1.3), 1.0),
        (SpeedUp(1.1, 1.05, 1.25), 1.25),
        (SpeedUp(0.9, 0.8, 0.95), 1.25),
    ],
    ids=["the copy is the same", "the copy is faster", "the copy is slower"],
)
def test_what_a_copy_of_the_baseline_shows_is_no_speed_up(floor, noise):
    faster, slower = SpeedUp(1.2, 1.1, 1.24), SpeedUp(0.85, 0.81, 0.9)
    assert faster.above_noise_of(floor).noise == pytest.approx(noise)
    assert faster.above_noise_of(floor).is_distinguishable == (noise == 1.0)
    assert slower.above_noise_of(floor).is_distinguishable == (noise == 1.0)
    assert SpeedUp(1.4, 1.3, 1.5).above_noise_of(floor).is_distinguishable


def test_too_few_numbers_are_refused():
    with pytest.raises(ValueError, match=r"Expected `times_ms` to hold at least 2 times, but got 1\."):
        summarise([1.0])
    with pytest.raises(ValueError) as caught:
        paired_speed_up([1.0, 2.0], [1.0])
    assert str(caught.value) == (
        "Expected `baseline_ms` and `arm_ms` to hold the same rounds, at least 2, but got 2 and 1."
    )


def test_rare_percentiles_need_many_runs():
    assert summarise([1.0, 2.0] * 4999).p999_ms is None
    times = np.random.default_rng(0).gamma(9.0, size=10_000)
    assert summarise(times.tolist()).p999_ms == pytest.approx(np.percentile(times, 99.9))


def test_the_upper_bound_lies_above_the_true_percentile_in_99_of_100():
    generator = np.random.default_rng(0)
    truth = -np.log(0.1)  # of the exponential distribution
    found = [summarise(generator.exponential(size=120).tolist()) for _ in range(1000)]
    above = np.mean([own.p90_upper_ms >= truth for own in found])
    assert 0.98 <= above < 1
    assert all(own.p90_ms <= own.p90_upper_ms for own in found)
    assert summarise([3.0, 1.0, 2.0]).p90_upper_ms == 3.0  # too few to say


@pytest.mark.parametrize("count", range(2, 26))
def test_the_order_statistics_hold_the_median_with_95_percent(count):
    rank = _sign_rank(count)
    # both tails: fewer than rank + 1 rounds on one side of the median
    outside = 2 * sum(comb(count, below) for below in range(rank + 1)) / 2**count
    assert outside <= 0.05 or rank == 0
    assert 2 * sum(comb(count, below) for below in range(rank + 2)) / 2**count > 0.05


def test_the_interval_covers_one_where_disturbances_are_not_normal():
    generator, covered = np.random.default_rng(1), 0
    for trial in range(200):
        # now and then a round is disturbed badly, on either side
        logs = generator.normal(0, 0.01, size=10) + generator.choice(
            [0, 0.2, -0.2], p=[0.8, 0.1, 0.1], size=10
        )
        found = paired_speed_up(np.exp(logs).tolist(), [1.0] * 10, seed=trial)
        covered += found.low <= 1 <= found.high
    assert covered / 200 >= 0.95
