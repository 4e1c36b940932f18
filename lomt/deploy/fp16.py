"""Half precision for GPUs: written, and compared with the float32 file value by value on the CPU."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import onnx
from onnxruntime.transformers.float16 import convert_float_to_float16

from lomt.atomic_file import write_atomically
from lomt.deploy.fixed_shape import image_input
from lomt.deploy.onnx_graph import load_network
from lomt.deploy.onnx_model import OnnxModel
from lomt.deploy.session import open_session
from lomt.errors import ExportMismatchError

__all__ = ["HalfPrecision", "convert_fp16"]

DEFAULT_TOLERANCE: Final = 0.01
_LARGEST: Final = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class HalfPrecision:
    """A float16 file that was found to compute what the float32 one does.

    Attributes:
        path: The file.
        differences: By output, the largest difference as a share of the output's largest value.
        tolerance: The largest share allowed.
        float_bytes: Size of the float32 file.
        bytes: Size of this one.
    """

    path: str
    differences: Mapping[str, float]
    tolerance: float
    float_bytes: int
    bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        found = ", ".join(f"{name} {value:.1e}" for name, value in self.differences.items())
        return (
            f"float16, {self.float_bytes / 1e6:.2f} -> {self.bytes / 1e6:.2f} MB; largest difference as a share of the "
            f"output's scale: {found} (allowed {self.tolerance:g})"
        )


def convert_fp16(
    path: Path, out: Path, images: Sequence[np.ndarray], *, tolerance: float = DEFAULT_TOLERANCE
) -> HalfPrecision:
    """Write a float16 network whose input and outputs stay float32, and compare its outputs.

    Weights beyond float16's range are clamped to it, which shows as a difference. Every number within the float32
    network must be in that range too. The comparison runs on the CPU, where onnxruntime rounds weights and outputs to
    float16 but computes in float32: a GPU, which rounds in between, may differ in further digits.

    Args:
        path: The float32 file.
        out: Where the float16 file goes; it appears there only if it passes.
        images: As the network takes them, each (channels, height, width).
        tolerance: Largest difference as a share of each output's largest absolute value.

    Raises:
        ExportMismatchError: An output differs by more, or a number within the network is too large for float16.
        ArtifactError: The file cannot be read.
        ValueError: There are no images, or ``tolerance`` does not lie between 0 and 1.
    """
    if not images or not 0 < tolerance < 1:
        raise ValueError(
            "Expected at least one image and `tolerance` to lie between 0 and 1, but got "
            f"{len(images)} images and {tolerance}."
        )
    network = load_network(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of clamped weights: the comparison tells what they do
        half = convert_float_to_float16(network, keep_io_types=True)
    batch = np.stack(images)
    _check_range(load_network(path), batch, path)
    expected = OnnxModel(path)(batch)

    def write(partial: Path) -> dict[str, float]:
        onnx.save(half, partial)
        found = OnnxModel(partial)(batch)
        return {name: _difference(found[name], value) for name, value in expected.items()}

    def checked(partial: Path) -> dict[str, float]:
        differences = write(partial)
        for name, value in differences.items():
            if not value <= tolerance:
                raise ExportMismatchError(
                    f"Expected output `{name}` of `{out}` in float16 to differ by at most {tolerance:g} of its scale, "
                    f"but got {value:.3g}. Allow more, or leave the network in float32."
                )
        return differences

    differences = write_atomically(out, checked)
    return HalfPrecision(str(out), differences, tolerance, path.stat().st_size, out.stat().st_size)


def _check_range(network: onnx.ModelProto, batch: np.ndarray, path: Path) -> None:
    """Make sure that every number within a network can be held in float16."""
    image = image_input(network, str(path))
    known = {output.name for output in network.graph.output}
    inner = [name for node in network.graph.node for name in node.output if name and name not in known]
    network.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner)
    with TemporaryDirectory(prefix="lomt-fp16-") as folder:
        onnx.save(network, Path(folder, "inner.onnx"))
        session = open_session(Path(folder, "inner.onnx"))
    names = [output.name for output in session.get_outputs()]
    for name, value in zip(names, session.run(names, {image.name: batch}), strict=True):
        largest = float(np.abs(value).max(initial=0.0)) if np.issubdtype(value.dtype, np.floating) else 0.0
        if not largest <= _LARGEST:
            raise ExportMismatchError(
                f"Expected all numbers within `{path}` to be at most {_LARGEST:g}, to fit float16, but `{name}` "
                f"reaches {largest:.3g}. Leave the network in float32."
            )


def _difference(found: np.ndarray, expected: np.ndarray) -> float:
    if not np.isfinite(found).all():
        return float("inf")
    scale = float(np.abs(expected).max(initial=0.0))
    largest = float(np.abs(found.astype(np.float64) - expected.astype(np.float64)).max(initial=0.0))
    return largest / scale if scale > 0 else largest
