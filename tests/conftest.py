"""Shared by all tests: run-time shape checks, the slow tests' switch, the measured data's place."""

import logging
import os
import signal
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from jaxtyping import install_import_hook

# Checks every shape in lomt's annotations while tests run. It must be in place before lomt is imported.
_HOOK = install_import_hook("lomt", "shape_checks.checked")

os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)

# The same examples in every run; `--hypothesis-profile=default` searches for others.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

# A shell that starts the tests in the background has Ctrl-C ignored, which tests of Ctrl-C would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_addoption(parser):
    parser.addoption("--runslow", action="store_true", help="also run the tests marked slow")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--runslow"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="slow: runs with --runslow"))


@contextmanager
def _logging_kept():
    """Leave logging as it was: a command line sets it up for its whole process."""
    root, ours = logging.getLogger(), logging.getLogger("lomt")
    kept = root.handlers[:], root.level, ours.level
    yield
    root.handlers[:], root.level = kept[0], kept[1]
    ours.setLevel(kept[2])


@pytest.fixture(autouse=True, scope="module")
def logging_of_modules():
    """What fixtures of a module call counts as well."""
    with _logging_kept():
        yield


@pytest.fixture(autouse=True)
def logging_of_tests():
    with _logging_kept():
        yield


@pytest.fixture
def nyuv2() -> Path:
    """The folder dataset that measurements use, where this checkout has it beside itself."""
    path = SHARED / "data" / "nyuv2"
    if not path.exists():
        pytest.skip(f"no NYU-v2 data at {path}")
    return path


@pytest.fixture
def lite0_weights() -> Path:
    """ImageNet weights of tf_efficientnet_lite0, where this checkout has them beside itself."""
    path = SHARED / "weights" / "tf_efficientnet_lite0.safetensors"
    if not path.exists():
        pytest.skip(f"no weights at {path}")
    return path
