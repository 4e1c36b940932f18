"""Static int8 networks: calibrated once, written with any set of layers left in float."""

import contextlib
import logging
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import create_calibrator
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.registry import QDQRegistry
from onnxruntime.quantization.shape_inference import quant_pre_process

from lomt.deploy.environment import describe_environment
from lomt.deploy.fixed_shape import image_input
from lomt.deploy.onnx_graph import load_network, set_metadata
from lomt.errors import LomtError, UnknownNameError

__all__ = ["METHODS", "Int8Writer", "QuantizationError", "saturates"]

METHODS: Final = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}
"""How the range of an activation follows from the images, by name."""

_EXACT_PRODUCTS: Final = ("avx512_vnni", "avx_vnni", "amx_tile", "asimd")
_NEVER: Final = ("Softmax",)  # eight bits of a probability help nobody


class QuantizationError(LomtError, RuntimeError):
    """A network that cannot be quantised as asked."""


class Int8Writer:
    """A network made ready and calibrated, from which int8 files are written.

    The files are in QDQ form: weights int8, symmetric, a scale for each output channel; activations uint8 with one
    scale a tensor.

    Args:
        path: The float32 ONNX file.
        images: Calibration images as the network takes them, each (channels, height, width) of the same size.
        folder: For files of the moment; has to stay while the writer is used.
        method: How ranges follow from the images, a name in :data:`METHODS`.
        reduce_range: Whether weights get 7 bits, against saturating sums on processors without VNNI; ``None`` asks
            this machine.

    Attributes:
        layers: The nodes that can be quantised, name → operator, in the graph's order.
        refused: Nodes of such operators that onnxruntime cannot quantise per channel, likewise.

    Raises:
        ArtifactError: The file is missing, is no ONNX network or has several inputs.
        QuantizationError: There are no images, or onnxruntime cannot prepare the network.
    """

    def __init__(
        self,
        path: Path,
        images: Sequence[np.ndarray],
        folder: Path,
        *,
        method: str = "minmax",
        reduce_range: bool | None = None,
    ) -> None:
        if method not in METHODS:
            raise UnknownNameError("calibration method", method, METHODS)
        if not images:
            raise QuantizationError("Expected at least one image to calibrate on, but got none.")
        original = load_network(path)
        self._metadata = {entry.key: entry.value for entry in original.metadata_props}
        self._input = image_input(original, str(path)).name
        self.reduce_range = saturates() if reduce_range is None else reduce_range
        kinds = [kind for kind in QDQRegistry if kind not in _NEVER]
        try:
            with _quiet():
                self._network = _prepare(path, folder / "prepared.onnx")
                self._ranges = self._calibrate(images, folder, kinds, METHODS[method])
        except Exception as error:  # onnxruntime has no common error class
            raise _cannot(path, error) from error
        self._path = path
        nodes = [node for node in self._network.graph.node if node.op_type in kinds]
        self.layers = {node.name: node.op_type for node in nodes if not _is_refused(node)}
        self.refused = {node.name: node.op_type for node in nodes if _is_refused(node)}

    def _calibrate(
        self, images: Sequence[np.ndarray], folder: Path, kinds: list[str], method: CalibrationMethod
    ) -> Any:
        calibrator = create_calibrator(
            folder / "prepared.onnx",
            kinds,
            augmented_model_path=str(folder / "augmented.onnx"),
            calibrate_method=method,
        )
        calibrator.collect_data(_Images(self._input, images))
        return calibrator.compute_data()

    def write(self, path: Path, layers: Collection[str], *, note: str = "") -> Path:
        """Write a file in which these layers are int8 and all others float.

        Args:
            path: Where it goes.
            layers: Names among :attr:`layers`; none gives the float network.
            note: Goes into the metadata as ``lomt.int8``.

        Raises:
            QuantizationError: onnxruntime refuses.
        """
        network = onnx.ModelProto()
        network.CopyFrom(self._network)
        chosen = [name for name in self.layers if name in layers]
        try:
            with _quiet():
                if chosen:
                    network = self._quantize(network, chosen)
        except Exception as error:  # onnxruntime has no common error class
            raise _cannot(self._path, error) from error
        set_metadata(network, {**self._metadata, **({"lomt.int8": note} if note else {})})
        onnx.save(network, path)
        return path

    def int8_layers(self, path: Path, chosen: Collection[str]) -> set[str]:
        """Return those of the chosen layers that do run in int8 in a file written with them.

        Operators that only pass numbers on, such as pooling, are int8 where what they read is; an activation may have
        become part of the rounding.
        """
        nodes = {node.name: node for node in onnx.load(path).graph.node}
        read = {name for node in nodes.values() if node.op_type == "DequantizeLinear" for name in node.output}
        rounded = {node.input[0] for node in nodes.values() if node.op_type == "QuantizeLinear"}
        return {
            name
            for name in chosen
            if name not in nodes or (nodes[name].input[0] in read and nodes[name].output[0] in rounded)
        }

    def _quantize(self, network: onnx.ModelProto, chosen: list[str]) -> onnx.ModelProto:
        quantizer = QDQQuantizer(
            network,
            per_channel=True,
            reduce_range=self.reduce_range,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=self._ranges,
            nodes_to_quantize=chosen,
            nodes_to_exclude=[],
            op_types_to_quantize=sorted({self.layers[name] for name in chosen}),
            extra_options={},
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
        result: onnx.ModelProto = quantizer.model.model
        return result


def saturates() -> bool:
    """Whether this processor adds pairs of 8-bit products in 16 bits, which overflow with 8-bit weights."""
    flags = describe_environment()["cpu"]["vector_extensions"]
    return not any(flag in flags for flag in _EXACT_PRODUCTS)


class _Images(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """One image after the other, as onnxruntime's calibration wants them."""

    def __init__(self, name: str, images: Sequence[np.ndarray]) -> None:
        self._feeds: Iterator[dict[str, np.ndarray]] = iter([{name: image[None]} for image in images])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next image, or ``None`` at the end."""
        return next(self._feeds, None)


def _prepare(path: Path, prepared: Path) -> onnx.ModelProto:
    """Fold constants, merge normalisation into convolutions, infer shapes, and name every node."""
    quant_pre_process(path, prepared, skip_symbolic_shape=True)
    network = onnx.load(prepared)
    taken: set[str] = set()
    for number, node in enumerate(network.graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{number}"
        taken.add(node.name)
    onnx.save(network, prepared)
    return network


def _is_refused(node: onnx.NodeProto) -> bool:
    # onnxruntime gives a grouped transposed convolution a scale for each channel of one group only.
    groups = [attribute.i for attribute in node.attribute if attribute.name == "group"]
    return node.op_type == "ConvTranspose" and groups not in ([], [1])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep onnxruntime's advice on preparing models, which is followed here, from the user."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(disabled)


def _cannot(path: Path, error: Exception) -> QuantizationError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return QuantizationError(
        f"Expected onnxruntime to quantise `{path}`, but got: {lines[0]} Calibration images have to be as the network "
        "takes them; a network with operators that it does not know stays in float."
    )
