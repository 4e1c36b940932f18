"""Which keys there are."""

from lomt.recipe import EarlyStoppingSettings, TaskSettings
from lomt.recipe.keys import kind_at, known_keys


def test_known_keys_of_blocks():
    assert known_keys(("data", "counts")) == ("train", "validation", "test")
    assert known_keys(("tasks", "any", "decoder")) == ("kind", "width", "rates", "dropout")
    assert known_keys(("train", "early_stopping")) == ("patience", "min_change")


def test_free_unknown_and_plain_keys_have_no_known_ones():
    assert known_keys(("tasks",)) == ()
    assert known_keys(("model", "backbone", "options")) == ()
    assert known_keys(("nothing", "here")) == ()
    assert known_keys(("name",)) == ()


def test_kinds_come_without_none():
    assert kind_at(("train", "early_stopping")) is EarlyStoppingSettings
    assert kind_at(("tasks", "x")) is TaskSettings
    assert kind_at(("data", "mean")) == tuple[float, float, float]
    assert kind_at(("nothing",)) is None
