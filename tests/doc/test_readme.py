"""The README's Python runs, its YAML is valid, its commands exist."""

import re
import shlex
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from lomt.cli import app
from lomt.data.description import Description
from lomt.recipe import parse_recipe

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_python_runs():
    names: dict = {}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)

    assert {task: tuple(value.shape) for task, value in names["outputs"].items()} == {
        "depth": (2, 1, 64, 96),
        "edges": (2, 1, 64, 96),
    }


def test_dataset_description_is_valid():
    described = [yaml.safe_load(block) for block in blocks("yaml") if "samples:" in block]

    assert [Description.model_validate(content).name for content in described] == ["flat"]


def test_recipe_is_valid(tmp_path):
    texts = [block for block in blocks("yaml") if "tasks:" in block]

    assert [parse_recipe(yaml.safe_load(text)).name for text in texts] == ["flat_lomt"]


def commands():
    lines = [line.split("#")[0] for block in blocks("console") for line in block.splitlines()]
    return [line.strip() for line in lines if line.startswith("lomt ")]


@pytest.mark.parametrize("command", commands())
def test_commands_and_options_exist(command):
    words = shlex.split(command)[1:]
    verbs = words[: 2 if words[0] == "data" else 1]
    result = CliRunner().invoke(app, [*verbs, "--help"])

    assert result.exit_code == 0
    for option in (word for word in words if word.startswith("--")):
        assert option in result.output


@pytest.mark.parametrize("path", re.findall(r"`(lomt/[\w/]+\.py)`", README))
def test_files_named_exist(path):
    assert (ROOT / path).is_file()
