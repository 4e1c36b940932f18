import json
import time

import pytest
import torch
from torch import nn

from lomt.deploy.fast_widths import DIVISORS, WidthCurve, choose_divisor, measure_divisor

IMAGES = torch.rand(1, 3, 16, 16)


def network(width=96):
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1),
        nn.Conv2d(width, width, 3, padding=1, groups=width),
        nn.Conv2d(width, 2 * width, 1),
    )


def padded_to(block, calls=None):
    """Return a timer for an engine that rounds channels up to a multiple of the block."""

    def timer(shapes, threads, seconds):
        if calls is not None:
            calls.append((tuple(shapes), threads, seconds))
        return tuple(
            1e-6 * shape.macs * (-(-shape.out_channels // block) * block / shape.out_channels)
            for shape in shapes
        )

    return timer


@pytest.mark.parametrize("block", DIVISORS)
def test_an_engine_that_pads_to_a_block_gets_that_block(block):
    found = measure_divisor(network(), IMAGES, tolerance=1e-6, timer=padded_to(block))
    assert found.divisor == block
    assert found.excess[32] == 0
    assert all(
        found.excess[divisor] == pytest.approx(0, abs=1e-9) for divisor in DIVISORS if divisor >= block
    )


def test_small_steps_may_be_within_the_tolerance():
    found = measure_divisor(network(), IMAGES, tolerance=0.5, timer=padded_to(16))
    assert found.divisor == 1
    assert 0 < found.excess[8] < found.excess[1] < 0.5


def test_the_excess_is_the_mean_over_multiples_weighted_by_how_many_there_are():
    # Time per MAC 1 at multiples of 32, 1.4 at odd multiples of 16, 1.2 at odd multiples of 8.
    curve = WidthCurve("", 1.0, (32, 64, 48, 40, 56), (1, 1, 1, 1, 1), (1.0, 1.0, 1.4, 1.1, 1.3))
    assert curve.excess(32) == 0
    assert curve.excess(16) == pytest.approx(0.5 * 0.4)
    assert curve.excess(8) == pytest.approx(0.5 * 0.2 + 0.25 * 0.4)


def test_the_trend_between_multiples_of_32_is_a_line():
    curve = WidthCurve("", 1.0, (32, 64, 48), (1, 1, 1), (1.0, 3.0, 2.0))
    assert curve.excess(16) == pytest.approx(0)


def test_layers_count_by_their_share():
    slow = WidthCurve("", 0.25, (32, 64, 48), (1, 1, 1), (1.0, 1.0, 1.8))
    even = WidthCurve("", 0.75, (32, 64, 48), (1, 1, 1), (1.0, 1.0, 1.0))
    assert choose_divisor([slow, even], 0.2)[1][16] == pytest.approx(0.25 * 0.4)


def test_images_and_depthwise_channels_move_as_they_should():
    calls = []
    measure_divisor(network(), IMAGES, threads=2, seconds=6.0, timer=padded_to(8, calls))
    assert len(calls) == 3
    for shapes, threads, seconds in calls:
        assert threads == 2
        assert seconds == pytest.approx(2.0)
        first = shapes[0]
        offsets = [shape.out_channels - first.out_channels for shape in shapes]
        assert offsets[:3] == [0, 32, 16]
        moved = [shape.in_channels - first.in_channels for shape in shapes]
        assert moved == ([0] * len(shapes) if first.in_channels == 3 else offsets)
        assert len({shape.kind for shape in shapes}) == 1
    assert {shapes[0].kind for shapes, _, _ in calls} == {"conv", "depthwise", "pointwise"}


def test_the_same_layers_are_measured_once_in_a_process():
    calls = []
    timer = padded_to(8, calls)
    first = measure_divisor(network(), IMAGES, timer=timer)
    count = len(calls)
    assert measure_divisor(network(), IMAGES, timer=timer) is first
    assert len(calls) == count
    measure_divisor(network(), IMAGES, timer=timer, threads=2)
    assert len(calls) == 2 * count


def test_the_report_says_how_it_was_found():
    found = measure_divisor(network(), IMAGES, tolerance=0.02, timer=padded_to(8))
    assert str(found).startswith("divisor 8: the smallest whose multiples take at most 2% longer")
    assert "1 thread" in str(found)
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert told["divisor"] == 8
    assert list(map(int, told["excess"])) == list(DIVISORS)
    assert sum(own["share"] for own in told["curves"]) == pytest.approx(1)
    assert told["curves"][0]["layer"].startswith(("conv 3x3", "pointwise 1x1", "depthwise 3x3"))


def test_onnxruntime_itself_is_measured_within_the_time():
    started = time.monotonic()
    found = measure_divisor(network(64), IMAGES, seconds=2.0)
    assert found.divisor in DIVISORS
    assert all(time_ms > 0 for curve in found.curves for time_ms in curve.times_ms)
    assert time.monotonic() - started < 30


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"tolerance": -0.1}, r"Expected `tolerance` to be at least 0, but got -0\.1\."),
        ({"seconds": 0}, r"Expected `seconds` to be positive, but got 0\."),
        ({"threads": 0}, r"Expected `threads` to be at least 1, but got 0\."),
    ],
)
def test_settings_out_of_range_are_refused(settings, text):
    with pytest.raises(ValueError, match=text):
        measure_divisor(network(), IMAGES, **settings)


def test_a_model_without_layers_to_time_is_refused():
    with pytest.raises(
        ValueError, match=r"convolutions or linear layers of at least 16 channels.*as a number"
    ):
        measure_divisor(nn.Conv2d(3, 4, 1), IMAGES)
