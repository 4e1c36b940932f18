"""A model's latency beside that of the model it was made from."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType

from torch import nn

from lomt.deploy.graph_timing import time_files
from lomt.deploy.timing_export import export_for_timing, timing_feed
from lomt.structure import Inputs

__all__ = ["NetworkGauge", "PairedTimes"]


@dataclass(frozen=True)
class PairedTimes:
    """Median times of two networks that took turns.

    Args:
        model_ms: Of the model in question.
        dense_ms: Of the dense model.
    """

    model_ms: float
    dense_ms: float


class NetworkGauge:
    """Map from a model to its latency in onnxruntime and that of the dense model in the same minute.

    The dense model is exported once, to a temporary folder; use it in a ``with`` statement, or close it.

    Args:
        dense: The model to compare with; left as it is.
        example_inputs: Inputs of both.
        threads: Intra-op threads.
        seconds: Time of one comparison without the export, about.

    Raises:
        UnsupportedLayerError: The exporter cannot express the model.
    """

    def __init__(
        self, dense: nn.Module, example_inputs: Inputs, *, threads: int = 1, seconds: float = 3.0
    ) -> None:
        self._inputs, self._threads, self._seconds = example_inputs, threads, seconds
        self._folder = TemporaryDirectory(prefix="lomt-latency-")
        try:
            self._dense = export_for_timing(dense, example_inputs, self._place("dense.onnx"))
        except BaseException:
            self.close()
            raise

    def __call__(self, model: nn.Module) -> PairedTimes:
        """Export and time a model; it is left as it is.

        Raises:
            UnsupportedLayerError: The exporter cannot express the model.
            LatencyError: onnxruntime cannot run the exported file.
        """
        path = export_for_timing(model, self._inputs, self._place("pruned.onnx"))
        times = time_files(
            [path, self._dense], timing_feed(self._inputs), threads=self._threads, seconds=self._seconds
        )
        return PairedTimes(*times)

    def dense_ms(self) -> float:
        """Time the dense model.

        Raises:
            LatencyError: onnxruntime cannot run the exported file.
        """
        feed = timing_feed(self._inputs)
        return time_files([self._dense], feed, threads=self._threads, seconds=self._seconds)[0]

    def close(self) -> None:
        """Remove the exported files."""
        self._folder.cleanup()

    def __enter__(self) -> "NetworkGauge":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _place(self, name: str) -> Path:
        return Path(self._folder.name, name)
