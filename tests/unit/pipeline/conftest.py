"""What the tests of the pipeline share: runs of the tiny recipe."""

import shutil
from pathlib import Path

import pytest

from lomt.pipeline import run
from lomt.recipe import load_recipe
from tests.unit.pipeline.messages import Messages
from tests.unit.pipeline.tiny import POINTS, RECIPE


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    """The run directory of the tiny recipe, what the run returned and what it said; tests must not change it."""
    out, messages = tmp_path_factory.mktemp("runs") / "tiny", Messages()
    summary = run(load_recipe(str(RECIPE)), out, progress=messages)
    return out, summary, messages.texts


@pytest.fixture(scope="session")
def rewired_run(tmp_path_factory):
    """A run directory up to stage rewire, with given branch points; tests must not change it."""
    out = tmp_path_factory.mktemp("runs") / "tiny"
    run(load_recipe(str(RECIPE), (POINTS,)), out, last="rewire")
    return out


@pytest.fixture
def copy(rewired_run, tmp_path):
    """A copy of it that a test may go on with."""
    return Path(shutil.copytree(rewired_run, tmp_path / "tiny"))
