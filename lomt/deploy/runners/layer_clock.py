"""The times of single layers, asked of onnxruntime and of OpenVINO."""

import json
from collections import defaultdict
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from lomt.deploy.runners.runner import RunSettings, random_inputs

__all__ = ["layer_times"]


def layer_times(source: str, settings: RunSettings, runs: int) -> list[dict[str, Any]]:
    """Return ``name``, ``kind`` and median ``ms`` of every layer that takes time.

    Args:
        source: The ONNX file.
        settings: Provider ``cpu`` or ``openvino``.
        runs: Recorded runs, after a third as many that warm up.
    """
    own = _in_openvino if settings.provider == "openvino" else _in_onnxruntime
    return own(source, settings, runs)


def _in_onnxruntime(source: str, settings: RunSettings, runs: int) -> list[dict[str, Any]]:
    from lomt.deploy.session import open_session

    warm = runs // 3
    with TemporaryDirectory(prefix="lomt-profile-") as folder:
        session = open_session(
            Path(source),
            threads=settings.threads,
            spinning=settings.spinning,
            profile=Path(folder, "trace"),
        )
        image_input = session.get_inputs()[0]
        kinds = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}
        images = random_inputs(settings, np.dtype(kinds.get(image_input.type, np.float32)))
        for _ in range(warm + runs):
            session.run(None, {image_input.name: images[0]})
        events = json.loads(Path(session.end_profiling()).read_text())
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        name = event.get("name", "")
        if event.get("cat") == "Node" and name.endswith("_kernel_time"):
            kind = event.get("args", {}).get("op_name", "")
            times[name.removesuffix("_kernel_time"), kind].append(event["dur"] / 1e3)
    return [
        {"name": name, "kind": kind, "ms": median(found[-runs:])} for (name, kind), found in times.items()
    ]


def _in_openvino(source: str, settings: RunSettings, runs: int) -> list[dict[str, Any]]:
    from lomt.deploy.runners.openvino_runner import compile_network

    network = compile_network(source, settings, PERF_COUNT=True)
    image = random_inputs(settings, network.inputs[0].get_element_type().to_dtype())[0]
    request = network.create_infer_request()
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    for number in range(runs // 3 + runs):
        request.infer([image])
        if number < runs // 3:
            continue
        for layer in request.get_profiling_info():
            if layer.real_time.total_seconds() > 0:
                times[layer.node_name, layer.node_type].append(layer.real_time.total_seconds() * 1e3)
    return [{"name": name, "kind": kind, "ms": median(found)} for (name, kind), found in times.items()]
