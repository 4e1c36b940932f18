"""From a file or a name to a recipe."""

import os
import subprocess
import sys

import pytest
import yaml

from lomt.errors import RecipeError, UnknownNameError
from lomt.recipe import load_recipe, parse_recipe
from lomt.recipe.shipped import shipped_paths


def test_a_file_a_path_and_a_shipped_name_are_found(tmp_path, base, monkeypatch):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(base))
    bare = tmp_path / "bare"
    bare.write_text(yaml.safe_dump(base))
    monkeypatch.chdir(tmp_path)
    names = [load_recipe(source, check_names=False).name for source in (path, str(path), "mine.yaml", "bare")]
    assert names == ["small"] * 4
    assert load_recipe("rooms_demo", check_names=False).name == "rooms_demo"


def test_an_unknown_name_lists_the_shipped_ones():
    with pytest.raises(UnknownNameError) as caught:
        load_recipe("rooms_dmo")
    message = str(caught.value)
    assert message.startswith("Unknown recipe `rooms_dmo`, did you mean `rooms_demo`?")
    assert f"Known are {', '.join(shipped_paths())}." in message


@pytest.mark.parametrize("source", ["nowhere.yaml", "no/where"])
def test_a_missing_file_is_named(source):
    with pytest.raises(RecipeError) as caught:
        load_recipe(source)
    assert str(caught.value) == (
        f"Recipe {source} has 1 problem:\n  expected a YAML file, but there is no such file."
    )


def test_a_directory_is_no_recipe(tmp_path):
    with pytest.raises(RecipeError, match="expected a YAML file, but there is a directory"):
        load_recipe(tmp_path)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"name: a: b\n", "line 1, column 8: mapping values are not allowed here."),
        (b"name: a\nname: b\n", "line 2, column 1: key `name` stands here a second time, first on line 1."),
        (b"name: \xff\n", "expected UTF-8 text, but byte 6 is none."),
        (b"", "expected a mapping of keys, but got null."),
        (b"- 1\n", "expected a mapping of keys, but got [1]."),
    ],
)
def test_unreadable_files(tmp_path, content, problem):
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert caught.value.problems == (problem,)
    assert str(caught.value).startswith(f"Recipe {path} has 1 problem:\n")


def test_all_mistakes_come_at_once(base):
    base["train"]["epochs"] = 0
    base["tasks"]["depth"]["loss"] = "l3"
    base["model"]["backbone"]["name"] = "resnet-18"
    base["data"]["root"] = "somewhere"
    base["speed"] = "high"
    with pytest.raises(RecipeError) as caught:
        parse_recipe(base, ["rewire.branch_points.depth=layer1", "seed"], source="mine")
    keys = [problem.partition(":")[0] for problem in caught.value.problems]
    assert keys == [
        "--set seed",
        "`data.root`",
        "`model.backbone.name`",
        "`rewire.branch_points`",
        "`speed`",
        "`tasks.depth.loss`",
        "`train.epochs`",
    ]
    assert str(caught.value).startswith("Recipe mine has 7 problems:\n")


def test_the_recipe_given_is_left_alone(base):
    before = yaml.safe_dump(base)
    parse_recipe(base, ["train.epochs=9", "data.counts.test=1"], check_names=False)
    assert yaml.safe_dump(base) == before


def test_reading_without_names_imports_nothing_heavy():
    code = (
        "import sys; from lomt.recipe import load_recipe; load_recipe('rooms_demo', check_names=False);"
        "print({'lomt', 'torch', 'timm'} & set(sys.modules))"
    )
    process = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": ""},
    )
    assert process.stdout == "{'lomt'}\n"
