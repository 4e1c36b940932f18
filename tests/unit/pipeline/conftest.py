"""What the tests of the pipeline share: one finished run of the tiny recipe."""

from pathlib import Path

import pytest

from lomt.pipeline import run
from lomt.recipe import load_recipe
from tests.unit.pipeline.messages import Messages

RECIPE = Path(__file__).with_name("tiny.yaml")


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    """The run directory of the tiny recipe, what the run returned and what it said; tests must not change it."""
    out, messages = tmp_path_factory.mktemp("runs") / "tiny", Messages()
    summary = run(load_recipe(str(RECIPE)), out, progress=messages)
    return out, summary, messages.texts
