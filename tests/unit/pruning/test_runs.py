import pytest
from hypothesis import given
from hypothesis import strategies as st

from lomt.pruning.runs import format_runs, parse_runs


@given(st.sets(st.integers(0, 60)).map(sorted))
def test_reading_what_was_written(positions):
    assert parse_runs(format_runs(positions)) == tuple(positions)


@pytest.mark.parametrize(
    ("positions", "text"),
    [((), ""), ((4,), "4"), (range(32), "0-31"), ((0, 1, 40, 42, 43), "0-1,40,42-43")],
)
def test_texts(positions, text):
    assert format_runs(positions) == text


@pytest.mark.parametrize(
    "text", ["a", "3-", "1,1", "5-3", "0-4,4", "2,1", "-1", "1.5", "0-99999999", "1,", "٣", " 1"]
)
def test_what_is_refused(text):
    with pytest.raises(ValueError, match=f"Expected increasing positions such as 0-31,40, but got {text}"):
        parse_runs(text)
