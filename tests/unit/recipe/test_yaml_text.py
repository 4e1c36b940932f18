"""Strict reading of YAML."""

import pytest

from lomt.recipe.yaml_text import YamlProblem, read_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1.0e-4", 1e-4),
        ("-.5", -0.5),
        ("3", 3),
        ("010", 10),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("2024-01-02", "2024-01-02"),
        ("true", True),
        ("yes", "yes"),
        ("on", "on"),
        ("null", None),
        ("~", None),
        ("", None),
        ("[96, 128]", [96, 128]),
        ("{a: {b: 1}}", {"a": {"b": 1}}),
        ("'3'", "3"),
        (".inf", float("inf")),
    ],
)
def test_scalars_are_read_as_in_yaml_1_2(text, value):
    read = read_yaml(text)
    assert read == value
    assert type(read) is type(value)


def test_merge_keys_still_work_and_may_be_overridden():
    assert read_yaml("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}")["b"] == {"x": 3, "y": 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a: 1\nb:\n  c: 1\n  c: 2\n",
            "line 4, column 3: key `c` stands here a second time, first on line 3",
        ),
        ("a: 1\na: 1\n", "line 2, column 1: key `a` stands here a second time, first on line 1"),
        ("a: b: c\n", "line 1, column 5: mapping values are not allowed here"),
        ("a: [1, 2\n", "line 2, column 1: expected ',' or ']', but got '<stream end>'"),
        ("a: !!python/object/apply:os.getcwd []\n", "line 1, column 4: could not determine a constructor"),
        ("a: 1\n---\nb: 2\n", "line 2, column 1: but found another document"),
        ("a: \x07\n", "line 1: special characters are not allowed"),
        ("? [1]\n: 2\n", "line 1, column 3: found unhashable key"),
        ("[" * 500, "line 1, column 1: nested too deeply"),
    ],
)
def test_bad_text_is_refused_with_its_place(text, message):
    with pytest.raises(YamlProblem) as caught:
        read_yaml(text)
    assert str(caught.value).startswith(message)
