"""ONNX files in onnxruntime: on the CPU, on CUDA and through TensorRT."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import onnx
import onnxruntime

from lomt.deploy.cuda_clock import CudaClock
from lomt.deploy.runners.runner import RunSettings, random_inputs
from lomt.deploy.session import Device, open_session
from lomt.errors import ArtifactError

__all__ = ["OnnxruntimeRunner"]

_TYPES: Final = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
}


class OnnxruntimeRunner:
    """A session with inputs and outputs bound to the device, so that no copy is timed.

    On a GPU the session works on a stream of ours, on which events before and after a run measure its own time.
    With TensorRT the file is opened twice: the first time builds the engine, the second reads it back.

    Args:
        source: The ONNX file; it has one input.
        settings: How it is run.

    Raises:
        ArtifactError: The file is missing, is no ONNX network, or has several inputs or one of an odd type.
        ProviderError: onnxruntime cannot run it on that device.
    """

    def __init__(self, source: str, settings: RunSettings) -> None:
        self._device = "cpu" if settings.provider == "cpu" else "cuda"
        self._clock = CudaClock.open() if self._device == "cuda" else None
        started = time.perf_counter()
        self._session = self._open(Path(source), settings)
        self.load_ms = (time.perf_counter() - started) * 1e3
        self.build_ms: float | None = None
        if settings.provider == "tensorrt":
            first_ms, started = self.load_ms, time.perf_counter()
            self._session = self._open(Path(source), settings)
            self.load_ms = (time.perf_counter() - started) * 1e3
            self.build_ms = max(0.0, first_ms - self.load_ms)
        self.used = tuple(self._session.get_providers())
        self._names = tuple(output.name for output in self._session.get_outputs())
        self._input = _only_input(self._session, source)
        images = random_inputs(settings, np.dtype(_TYPES[self._input.type]))
        self._bindings = [self._bind(image) for image in images]

    def _open(self, path: Path, settings: RunSettings) -> onnxruntime.InferenceSession:
        options: dict[str, Any] = {}
        if self._clock is not None:
            options["user_compute_stream"] = self._clock.stream
        if settings.provider == "tensorrt":
            options |= _engine_options(path, settings)
        return open_session(
            path,
            threads=settings.threads,
            device=cast(Device, settings.provider),
            spinning=settings.spinning,
            provider_options=options,
        )

    def _bind(self, image: np.ndarray) -> onnxruntime.IOBinding:
        binding = self._session.io_binding()
        binding.bind_ortvalue_input(
            self._input.name, onnxruntime.OrtValue.ortvalue_from_numpy(image, self._device, 0)
        )
        for name in self._names:
            binding.bind_output(name, self._device, 0)
        return binding

    def run(self, index: int) -> tuple[float, float | None]:
        """Run on one of the inputs; see :class:`lomt.deploy.runners.Runner`."""
        binding = self._bindings[index % len(self._bindings)]
        if self._clock is None:
            started = time.perf_counter_ns()
            self._session.run_with_iobinding(binding)
            return (time.perf_counter_ns() - started) / 1e6, None
        self._clock.synchronize()
        started = time.perf_counter_ns()
        self._clock.start()
        self._session.run_with_iobinding(binding)
        self._clock.stop()
        binding.synchronize_outputs()
        self._clock.synchronize()
        host_ms = (time.perf_counter_ns() - started) / 1e6
        return host_ms, self._clock.elapsed_ms()

    def outputs(self, index: int) -> Mapping[str, np.ndarray]:
        """Run and return the outputs; see :class:`lomt.deploy.runners.Runner`."""
        self.run(index)
        binding = self._bindings[index % len(self._bindings)]
        return dict(zip(self._names, binding.copy_outputs_to_cpu(), strict=True))

    def device_memory(self) -> int | None:
        """Return the bytes in use on the GPU, by all processes on it."""
        return None if self._clock is None else self._clock.used_bytes()


def _engine_options(path: Path, settings: RunSettings) -> dict[str, Any]:
    """Return what makes TensorRT build its engine when the file is opened, for this shape, and only once."""
    graph = onnx.load(path, load_external_data=False).graph
    stored = {tensor.name for tensor in graph.initializer}
    name = next(value.name for value in graph.input if value.name not in stored)
    shape = f"{name}:{'x'.join(str(size) for size in settings.shape)}"
    shapes = {f"trt_profile_{bound}_shapes": shape for bound in ("min", "opt", "max")}
    return {**shapes, "trt_engine_cache_enable": 1, "trt_engine_cache_path": settings.cache or ""}


def _only_input(session: onnxruntime.InferenceSession, source: str) -> Any:
    inputs = session.get_inputs()
    if len(inputs) != 1 or inputs[0].type not in _TYPES:
        found = ", ".join(f"{own.name} ({own.type})" for own in inputs) or "none"
        raise ArtifactError(f"Expected `{source}` to have one input, the images, but got {found}.")
    return inputs[0]
