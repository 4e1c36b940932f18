"""ONNX files in OpenVINO's own runtime, on the CPU."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openvino

from lomt.deploy.runners.runner import RunSettings, random_inputs
from lomt.errors import ArtifactError

__all__ = ["OpenvinoRunner", "compile_network"]


def compile_network(source: str, settings: RunSettings, **properties: Any) -> Any:
    """Read an ONNX file for one shape of its input and compile it for the CPU.

    One stream with the threads asked for, best latency, float32 arithmetic as in onnxruntime.

    Raises:
        ArtifactError: The file is missing, cannot be read, or has several inputs.
    """
    if not Path(source).is_file():
        raise ArtifactError(f"Expected `{source}` to be an ONNX file, but there is none. Export it first.")
    core = openvino.Core()
    try:
        network = core.read_model(source)
        if len(network.inputs) != 1:
            raise ArtifactError(
                f"Expected `{source}` to have one input, the images, but got {len(network.inputs)}."
            )
        network.reshape({network.inputs[0]: openvino.PartialShape(list(settings.shape))})
        return core.compile_model(
            network,
            "CPU",
            {
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_NUM_THREADS": settings.threads,
                "NUM_STREAMS": 1,
                "INFERENCE_PRECISION_HINT": "f32",
                **properties,
            },
        )
    except RuntimeError as error:  # OpenVINO has no finer class
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise ArtifactError(
            f"Expected OpenVINO to load `{source}` for images of shape {settings.shape}, but got: "
            f"{lines[-1].strip()} Use provider cpu, or export it again."
        ) from error


class OpenvinoRunner:
    """A compiled network with one request for each input.

    Args:
        source: The ONNX file; it has one input.
        settings: How it is run.

    Raises:
        ArtifactError: OpenVINO cannot load the file.
    """

    build_ms: float | None = None

    def __init__(self, source: str, settings: RunSettings) -> None:
        started = time.perf_counter()
        self._network = compile_network(source, settings)
        self.load_ms = (time.perf_counter() - started) * 1e3
        self.used = tuple(f"OpenVINO {name}" for name in self._network.get_property("EXECUTION_DEVICES"))
        # The requests use this memory and do not keep it alive.
        self._images = random_inputs(settings, self._network.inputs[0].get_element_type().to_dtype())
        self._requests = [self._request(image) for image in self._images]

    def _request(self, image: np.ndarray) -> Any:
        request = self._network.create_infer_request()
        request.set_input_tensor(openvino.Tensor(image, shared_memory=True))
        return request

    def run(self, index: int) -> tuple[float, float | None]:
        """Run on one of the inputs; see :class:`lomt.deploy.runners.Runner`."""
        request = self._requests[index % len(self._requests)]
        started = time.perf_counter_ns()
        request.start_async()
        request.wait()
        return (time.perf_counter_ns() - started) / 1e6, None

    def outputs(self, index: int) -> Mapping[str, np.ndarray]:
        """Run and return the outputs; see :class:`lomt.deploy.runners.Runner`."""
        self.run(index)
        request = self._requests[index % len(self._requests)]
        return {
            output.get_any_name(): np.array(request.get_tensor(output).data)
            for output in self._network.outputs
        }

    def device_memory(self) -> int | None:
        """Return nothing: the device is the CPU."""
        return None
