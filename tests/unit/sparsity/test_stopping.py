import json
import math

import pytest

from lomt.sparsity import StoppingRules, lambda_path


def first_stop(rules, checks):
    """Return the number of the check that stops, counted from 1, and the reason."""
    for number, check in enumerate(checks, start=1):
        reason = rules.update(*check)
        if reason is not None:
            return number, reason
    return None


def test_the_papers_path():
    published = [1e-4, 1.29e-4, 1.67e-4, 2.15e-4, 2.78e-4, 3.59e-4, 4.64e-4, 5.99e-4, 7.74e-4, 1e-3]
    path = lambda_path(1e-4, 1e-3, 10)
    assert [round(value, 6) for value in path] == published
    assert (path[0], path[-1]) == (1e-4, 1e-3)


def test_paths_of_one_and_two_and_downwards():
    assert lambda_path(0.5, 2.0, 1) == (0.5,)
    assert lambda_path(0.5, 2.0, 2) == (0.5, 2.0)
    assert lambda_path(4.0, 1.0, 3) == pytest.approx((4.0, 2.0, 1.0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0, 1.0, 3), "Expected `start` to be finite and above 0, but got 0.0."),
        ((1.0, math.inf, 3), "Expected `stop` to be finite and above 0, but got inf."),
        ((1.0, 2.0, 0), "Expected `count` to be at least 1, but got 0."),
    ],
)
def test_impossible_paths_are_refused(arguments, message):
    with pytest.raises(ValueError) as error:
        lambda_path(*arguments)
    assert str(error.value) == message


def test_enough_sparsity_stops():
    checks = [(0.5,), (0.8,), (0.81,)]
    assert first_stop(StoppingRules(sparsity_cap=0.8), checks) == (
        3,
        "sparsity 81.0% is above the cap of 80.0%",
    )
    assert first_stop(StoppingRules(sparsity_cap=None), checks) is None


def test_sparsity_that_stands_still_stops():
    checks = [(0.1,), (0.2,), (0.2005,), (0.25,), (0.2505,), (0.2509,), (0.2505,), (0.9,)]
    assert first_stop(StoppingRules(stalled_patience=3), checks) == (
        7,
        "sparsity has changed by less than 0.10% in each of the last 3 checks",
    )
    assert (
        first_stop(StoppingRules(sparsity_cap=None, stalled_change=None, stalled_patience=3), checks) is None
    )


def test_a_validation_loss_that_no_longer_falls_stops():
    losses = [1.0, 0.9, 0.95, 0.8, 0.8, math.nan, 0.7]
    checks = [(i / 10, loss) for i, loss in enumerate(losses)]
    assert first_stop(StoppingRules(loss_patience=2), checks) == (
        6,
        "validation loss has not fallen below 0.8 in the last 2 checks",
    )
    assert first_stop(StoppingRules(loss_patience=3), checks) is None


def test_a_validation_loss_that_rises_stops():
    checks = [(0.1, 1.0), (0.2, 0.5), (0.3, 0.54), (0.4, 0.6)]
    assert first_stop(StoppingRules(loss_tolerance=0.1), checks) == (
        4,
        "validation loss is 20.0% above its lowest, more than the tolerance of 10.0%",
    )
    assert first_stop(StoppingRules(), checks) is None
    assert first_stop(StoppingRules(loss_tolerance=0.1), [(0.1, 1.0), (0.2, math.nan)])[0] == 2


def test_checks_without_a_loss_leave_the_loss_rules_alone():
    rules = StoppingRules(loss_patience=1, loss_tolerance=0.0)
    assert first_stop(rules, [(0.1, 1.0), (0.2,), (0.3, None), (0.4, 0.9)]) is None


@pytest.mark.parametrize("stop_after", [1, 3, 5])
def test_resumed_rules_stop_where_unbroken_ones_do(stop_after):
    checks = [(0.1, 1.0), (0.2, 0.9), (0.2, 0.95), (0.2, 0.96), (0.3, 0.97), (0.3, 0.98), (0.3, 0.99)]

    def rules():
        return StoppingRules(stalled_patience=3, loss_patience=5)

    unbroken = first_stop(rules(), checks)
    first, second = rules(), rules()
    for check in checks[:stop_after]:
        assert first.update(*check) is None
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    number, reason = first_stop(second, checks[stop_after:])
    assert (number + stop_after, reason) == unbroken


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("sparsity_cap", 80.0, "Expected `sparsity_cap` to be between 0 and 1 or None, but got 80.0."),
        ("stalled_change", -0.1, "Expected `stalled_change` to be between 0 and 1 or None, but got -0.1."),
        ("stalled_patience", 0, "Expected `stalled_patience` to be at least 1 or None, but got 0."),
        ("loss_patience", 0, "Expected `loss_patience` to be at least 1 or None, but got 0."),
        ("loss_tolerance", -1.0, "Expected `loss_tolerance` to be at least 0 or None, but got -1.0."),
    ],
)
def test_impossible_rules_are_refused(name, value, message):
    with pytest.raises(ValueError) as error:
        StoppingRules(**{name: value})
    assert str(error.value) == message
