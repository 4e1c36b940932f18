import math

import pytest

from lomt.errors import UnknownNameError
from lomt.training.schedules import SCHEDULES, Patience, PlateauFactor, make_schedule


@pytest.mark.parametrize("kind", SCHEDULES)
def test_factor_stays_between_zero_and_one(kind):
    schedule = make_schedule(kind, warmup=0.1)

    assert all(0.0 <= schedule(step / 1000) <= 1.0 for step in range(1001))


def test_cosine_ends_at_final():
    schedule = make_schedule("cosine", final=0.2)

    assert schedule(0.0) == 1.0
    assert schedule(0.5) == pytest.approx(0.6)
    assert schedule(1.0) == pytest.approx(0.2)


def test_one_cycle_peaks_at_thirty_percent():
    schedule = make_schedule("one_cycle")

    assert max(range(101), key=lambda step: schedule(step / 100)) == 30
    assert schedule(0.3) == pytest.approx(1.0)


def test_warmup_rises_linearly():
    schedule = make_schedule("constant", warmup=0.5)

    assert schedule(0.25) == pytest.approx(0.5)
    assert schedule(0.75) == 1.0


def test_unknown_schedule_is_named():
    with pytest.raises(UnknownNameError, match="Unknown schedule `cosin`, did you mean `cosine`"):
        make_schedule("cosin")


def test_warmup_of_everything_is_refused():
    with pytest.raises(ValueError, match="Expected `warmup` to be at least 0 and below 1, but got 1"):
        make_schedule("cosine", warmup=1.0)


def test_patience_ends_after_idle_epochs():
    patience = Patience(2)

    assert [patience.is_over(v) for v in (1.0, 0.9, 0.95, 0.91)] == [False, False, False, True]


def test_patience_takes_nan_for_no_improvement():
    patience = Patience(1)
    patience.is_over(1.0)

    assert patience.is_over(math.nan)


def test_plateau_lowers_the_rate_and_survives_a_restore():
    plateau = PlateauFactor(0.5, 2)
    for loss in (1.0, 1.0, 1.0):
        plateau.after_epoch(loss)
    again = PlateauFactor(0.5, 2)
    again.restore(plateau.state())
    again.after_epoch(1.0)
    again.after_epoch(1.0)

    assert plateau.value == 0.5
    assert again.value == 0.25
