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


def file_in(language, name):
    """Return a block that begins with the name of the file it is."""
    (block,) = [own for own in blocks(language) if own.startswith(f"# {name}\n")]
    return block


def test_python_runs():
    names: dict = {}
    for block in blocks("python"):
        if not block.startswith("# my_network.py"):
            exec(compile(block, "README.md", "exec"), names)

    assert {task: tuple(value.shape) for task, value in names["outputs"].items()} == {
        "depth": (2, 1, 64, 96),
        "edges": (2, 1, 64, 96),
    }


def test_dataset_description_is_valid():
    described = [yaml.safe_load(block) for block in blocks("yaml") if "samples:" in block]

    assert [Description.model_validate(content).name for content in described] == ["flat"]


def test_recipe_is_valid(tmp_path):
    texts = [block for block in blocks("yaml") if "tasks:" in block and "factory:" not in block]

    assert [parse_recipe(yaml.safe_load(text)).name for text in texts] == ["flat_lomt"]


@pytest.fixture
def own_network(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_network.py").write_text(file_in("python", "my_network.py"), encoding="utf-8")
    (tmp_path / "my_network.yaml").write_text(file_in("yaml", "my_network.yaml"), encoding="utf-8")
    return tmp_path


def test_own_network_is_adopted_and_its_recipe_valid(own_network):
    command = next(own for own in commands() if own.startswith("lomt adopt"))
    result = CliRunner().invoke(app, shlex.split(command)[1:])
    assert result.exit_code == 0, result.output
    block = yaml.safe_load((own_network / "model.yaml").read_text())["model"]
    recipe = yaml.safe_load((own_network / "my_network.yaml").read_text())
    assert block["backbone"] == recipe["model"]["backbone"] == "backbone"
    assert parse_recipe({**recipe, "model": block}).name == "my_network"


@pytest.mark.slow
def test_own_network_runs(own_network):
    result = CliRunner().invoke(app, ["run", "my_network.yaml", "--set", "bench={quick: true, rounds: 2}"])
    assert result.exit_code == 0, result.output
    assert (own_network / "runs" / "my_network" / "deploy" / "model.onnx").is_file()


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
