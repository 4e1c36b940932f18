import subprocess
import sys

import pytest

import lomt.deploy


@pytest.mark.parametrize("name", lomt.deploy.__all__)
def test_every_public_name_is_found(name):
    assert getattr(lomt.deploy, name).__name__ == name
    assert name in dir(lomt.deploy)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"module 'lomt\.deploy' has no attribute 'export_tflite'"):
        lomt.deploy.export_tflite  # noqa: B018


def test_what_times_networks_never_loads_torch():
    code = "import sys, lomt.deploy.latency_worker, lomt.deploy.latency; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"
