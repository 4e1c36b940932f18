"""PyTorch modules, eager or compiled, on the CPU or a GPU; the only runner that imports torch."""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lomt.deploy.exporter import root_cause
from lomt.deploy.runners.runner import RunSettings, random_inputs
from lomt.deploy.session import ProviderError
from lomt.pruning.source import open_model
from lomt.structure import named_outputs

__all__ = ["SquareProduct", "TorchRunner"]


class SquareProduct(nn.Module):
    """Map from a matrix to its product with a fixed one of the same size.

    Args:
        size: Rows and columns.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.matrix = nn.Buffer(torch.rand(size, size, generator=torch.Generator().manual_seed(0)))

    def forward(self, rows: Tensor) -> Tensor:
        """Multiply."""
        return rows @ self.matrix


class TorchRunner:
    """A module in evaluation mode, without gradients.

    Args:
        source: A factory or a directory with a saved model; see :func:`lomt.pruning.source.open_model`.
        settings: How it is run; with provider ``torch-compile`` the first run compiles.

    Raises:
        FactoryError: The factory does not build a model.
        ArtifactError: The saved model cannot be read.
        ProviderError: There is no GPU, or the model cannot be compiled or run.
    """

    build_ms: float | None = None

    def __init__(self, source: str, settings: RunSettings) -> None:
        if settings.device == "cuda" and not torch.cuda.is_available():
            raise ProviderError("Expected a GPU that torch can use, but there is none. Use `--device cpu`.")
        torch.set_num_threads(settings.threads)
        started = time.perf_counter()
        name, _, size = source.partition("?size=")
        model = open_model(name, {"size": int(size)} if size else None)
        self._model: Any = model.to(settings.device).requires_grad_(False)
        if settings.provider == "torch-compile":
            self._model = torch.compile(self._model)
        self.load_ms = (time.perf_counter() - started) * 1e3
        self.used = (
            f"torch {settings.device}{', compiled' if settings.provider == 'torch-compile' else ''}",
        )
        images = random_inputs(settings, np.dtype(np.float32))
        self._images = [torch.from_numpy(image).to(settings.device) for image in images]
        self._is_on_gpu = settings.device == "cuda"
        self._source = source
        self._result: Any = None

    def run(self, index: int) -> tuple[float, float | None]:
        """Run on one of the inputs; see :class:`lomt.deploy.runners.Runner`."""
        image = self._images[index % len(self._images)]
        with torch.inference_mode():
            try:
                return self._timed_on_gpu(image) if self._is_on_gpu else (self._timed(image), None)
            except Exception as error:  # of the model's own code or of the compiler
                raise ProviderError(
                    f"Expected torch to run `{self._source}` on images of shape {tuple(image.shape)}, but got: "
                    f"{root_cause(error)}."
                ) from error

    def _timed(self, image: Tensor) -> float:
        started = time.perf_counter_ns()
        self._result = self._model(image)
        return (time.perf_counter_ns() - started) / 1e6

    def _timed_on_gpu(self, image: Tensor) -> tuple[float, float]:
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        started = time.perf_counter_ns()
        first.record()
        self._result = self._model(image)
        last.record()
        torch.cuda.synchronize()
        return (time.perf_counter_ns() - started) / 1e6, float(first.elapsed_time(last))

    def outputs(self, index: int) -> Mapping[str, np.ndarray]:
        """Run and return the outputs; see :class:`lomt.deploy.runners.Runner`."""
        self.run(index)
        return {name: value.float().cpu().numpy() for name, value in named_outputs(self._result).items()}

    def device_memory(self) -> int | None:
        """Return the most bytes that torch has held on the GPU."""
        return torch.cuda.max_memory_allocated() if self._is_on_gpu else None
