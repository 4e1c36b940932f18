"""Parameters and multiply-accumulates, counted in the ONNX file that is deployed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any, Final

import onnx

from lomt.deploy.onnx_graph import count_subnormals, load_network
from lomt.errors import ArtifactError

__all__ = ["COUNTERS", "Cost", "count_cost"]

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Cost:
    """What a network costs; see :func:`count_cost`.

    Attributes:
        params: Stored floating-point (or quantised) weights.
        macs: Multiply-accumulates for one batch; twice as many floating-point operations.
        file_bytes: Size of the file.
        uncounted: Nodes that multiply and accumulate but are not in ``macs``, as "name (operator)".
        subnormal_weights: Weights so small that they slow some CPUs; 0 after :func:`export_onnx`.
        batch: Number of images that ``macs`` stands for.
    """

    params: int
    macs: int
    file_bytes: int
    uncounted: tuple[str, ...]
    subnormal_weights: int
    batch: int = 1

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        return {**asdict(self), "uncounted": list(self.uncounted)}

    def __str__(self) -> str:
        text = (
            f"{self.params / 1e6:.3f} M parameters, {self.macs / 1e6:.1f} M MACs at batch {self.batch}, "
            f"{self.file_bytes / 2**20:.2f} MiB"
        )
        return text + (f"; not counted: {', '.join(self.uncounted)}" if self.uncounted else "")


def count_cost(path: Path, *, batch: int = 1) -> Cost:
    """Count weights and multiply-accumulates of an ONNX file in its own graph.

    MACs are exact for Conv, ConvTranspose (grouped ones too; padding counts as data), Gemm and MatMul;
    adding a bias, normalising, activating and resizing are free, as in ``torch.utils.flop_counter``. Weights
    are all stored floating-point arrays with at least one axis; for a quantised network, the arrays that
    are dequantised. Convolution and normalisation merge at export, so that the number of parameters
    can differ a little from the PyTorch model's.

    Args:
        path: The ONNX file; height and width are fixed in it.
        batch: Number of images.

    Raises:
        ArtifactError: The file is missing, is no ONNX network, or contradicts itself.
        ValueError: ``batch`` is below 1.
    """
    path = Path(path)
    if batch < 1:
        raise ValueError(f"Expected `batch` to be at least 1, but got {batch}.")
    network = load_network(path)
    shapes = _shapes(path, network, batch)
    macs, uncounted = _count_macs(network.graph, shapes)
    return Cost(
        params=_count_params(network.graph),
        macs=macs,
        file_bytes=path.stat().st_size,
        uncounted=uncounted,
        subnormal_weights=count_subnormals(network),
        batch=batch,
    )


def _conv(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> int:
    # A filter is (out, in / groups, *kernel): every output number costs all of it but the first axis.
    return prod(shapes[node.output[0]]) * prod(shapes[node.input[1]][1:])


def _conv_transpose(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> int:
    # A filter is (in, out / groups, *kernel): every input number is spread over all of it but the first axis.
    return prod(shapes[node.input[0]]) * prod(shapes[node.input[1]][1:])


def _gemm(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> int:
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return prod(shapes[node.output[0]]) * shapes[node.input[0]][0 if transposed else 1]


def _matmul(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> int:
    return prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]


COUNTERS: Final[Mapping[str, Callable[[onnx.NodeProto, Mapping[str, Shape]], int]]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
}

# Operators of the standard set that multiply and accumulate, or hide a graph that may.
_UNCOUNTED: Final = (
    *("Attention", "ConvInteger", "DeformConv", "Einsum", "GRU", "If", "LSTM", "Loop", "MatMulInteger"),
    *("QLinearConv", "QLinearMatMul", "RNN", "Scan"),
)
_STANDARD_DOMAINS: Final = ("", "ai.onnx")

# Inputs that hold settings, not weights.
_SETTINGS: Final[Mapping[str, tuple[int, ...]]] = {
    "Resize": (1, 2, 3),
    "QuantizeLinear": (1, 2),
    "DequantizeLinear": (1, 2),
}


def _count_macs(graph: onnx.GraphProto, shapes: Mapping[str, Shape]) -> tuple[int, tuple[str, ...]]:
    macs, uncounted = 0, []
    for node in graph.node:
        name = f"{node.name or node.output[0]} ({node.op_type})"
        if node.op_type in _UNCOUNTED or node.domain not in _STANDARD_DOMAINS:
            uncounted.append(name)
        elif node.op_type in COUNTERS:
            try:
                macs += COUNTERS[node.op_type](node, shapes)
            except KeyError:  # a size depends on the data
                uncounted.append(name)
    return macs, tuple(uncounted)


def _count_params(graph: onnx.GraphProto) -> int:
    settings: set[str] = set()
    quantised: set[str] = set()
    for node in graph.node:
        settings.update(
            name for slot, name in enumerate(node.input) if slot in _SETTINGS.get(node.op_type, ())
        )
        if node.op_type == "DequantizeLinear":
            quantised.add(node.input[0])
    return sum(
        prod(tensor.dims)
        for tensor in graph.initializer
        if tensor.dims and tensor.name not in settings and (_is_float(tensor) or tensor.name in quantised)
    )


def _is_float(tensor: onnx.TensorProto) -> bool:
    kinds = onnx.TensorProto
    return tensor.data_type in (kinds.FLOAT, kinds.DOUBLE, kinds.FLOAT16, kinds.BFLOAT16)


def _shapes(path: Path, network: onnx.ModelProto, batch: int) -> dict[str, Shape]:
    """Find the shape of every value whose shape does not depend on the data.

    Shapes are inferred anew for this batch size. Where inference gives up, as behind some reshapes, the
    shapes noted in the file count, which the exporter knew.
    """
    stored = {tensor.name: tuple(tensor.dims) for tensor in network.graph.initializer}
    fixed = onnx.ModelProto()
    fixed.CopyFrom(network)
    del fixed.graph.value_info[:]
    for output in fixed.graph.output:
        output.type.tensor_type.ClearField("shape")
    for value in fixed.graph.input:
        if value.name not in stored and value.type.tensor_type.shape.dim:
            value.type.tensor_type.shape.dim[0].dim_value = batch
    try:
        inferred = onnx.shape_inference.infer_shapes(fixed, strict_mode=True, data_prop=True).graph
    except onnx.shape_inference.InferenceError as error:
        reason = f"Expected the shapes in `{path}` to fit together at batch {batch}, but got: {error}"
        raise ArtifactError(reason) from error
    return {**_known_shapes(network.graph, batch), **_known_shapes(inferred, batch), **stored}


def _known_shapes(graph: onnx.GraphProto, batch: int) -> dict[str, Shape]:
    batch_names = [size.dim_param for value in graph.input for size in value.type.tensor_type.shape.dim[:1]]
    shapes = {}
    for value in [*graph.input, *graph.value_info, *graph.output]:
        if value.type.tensor_type.HasField("shape"):
            sizes = [_size(size, batch_names, batch) for size in value.type.tensor_type.shape.dim]
            if None not in sizes:
                shapes[value.name] = tuple(size for size in sizes if size is not None)
    return shapes


def _size(size: onnx.TensorShapeProto.Dimension, batch_names: Sequence[str], batch: int) -> int | None:
    if size.HasField("dim_value"):
        return int(size.dim_value)
    return batch if size.dim_param and size.dim_param in batch_names else None
