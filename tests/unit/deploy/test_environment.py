import json
import os
import platform
from importlib import metadata

from lomt.deploy import describe_environment, environment


def test_it_describes_machine_and_software_as_json():
    found = describe_environment()
    assert json.loads(json.dumps(found)) == found
    assert found["packages"]["onnxruntime"] == metadata.version("onnxruntime")
    assert found["packages"]["torch"] == metadata.version("torch")
    assert found["python"] == platform.python_version()
    assert found["cpu"]["model"]
    assert 1 <= found["cpu"]["usable_cores"] <= os.cpu_count()
    assert found["memory_bytes"] > 2**20
    assert found["date"].endswith("+00:00")


def test_settings_of_threads_are_noted(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    variables = describe_environment()["variables"]
    assert variables["OMP_NUM_THREADS"] == "3"
    assert "MKL_NUM_THREADS" not in variables


def test_what_the_system_does_not_tell_is_none(monkeypatch):
    monkeypatch.setattr(environment, "_read", lambda path: None)
    monkeypatch.setattr(environment.shutil, "which", lambda name: None)
    monkeypatch.delattr(environment.os, "getloadavg", raising=False)
    found = describe_environment()
    assert found["cpu"]["governor"] is None
    assert found["cpu"]["vector_extensions"] == []
    assert found["load_average"] is None
    assert found["gpus"] == []


def tool(tmp_path, script):
    path = tmp_path / "nvidia-smi"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_gpus_are_listed_with_their_driver(tmp_path, monkeypatch):
    found = tool(tmp_path, "printf 'Some GPU, 1.2\\nSome GPU, 1.2\\n'")
    monkeypatch.setattr(environment.shutil, "which", lambda name: found)
    assert describe_environment()["gpus"] == ["Some GPU, 1.2", "Some GPU, 1.2"]


def test_a_driver_that_fails_is_no_gpu(tmp_path, monkeypatch):
    found = tool(tmp_path, "echo no devices; exit 9")
    monkeypatch.setattr(environment.shutil, "which", lambda name: found)
    assert describe_environment()["gpus"] == []
