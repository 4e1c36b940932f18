"""Parameters, multiply-accumulates and activations, counted in the ONNX file that is deployed."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field
from math import prod
from pathlib import Path
from typing import Any, Final

import onnx

from lomt.deploy.graph_shapes import Shape, example_shape, graph_shapes
from lomt.deploy.onnx_graph import count_subnormals, load_network
from lomt.deploy.task_graph import nodes_for

__all__ = ["COUNTERS", "Cost", "PartCost", "count_cost"]


@dataclass(frozen=True)
class PartCost:
    """What a part of a network costs.

    Attributes:
        params: Stored floating-point (or quantised) weights.
        weight_bytes: Size of all that is stored for it.
        macs: Multiply-accumulates for the whole batch.
        activations: Numbers that its layers put out for the whole batch.
    """

    params: int
    weight_bytes: int
    macs: int
    activations: int


@dataclass(frozen=True)
class Cost:
    """What a network costs; see :func:`count_cost`.

    Attributes:
        params: Stored floating-point (or quantised) weights.
        macs: Multiply-accumulates for one batch; twice as many floating-point operations.
        file_bytes: Size of the file.
        uncounted: Nodes that multiply and accumulate but are not in ``macs``, as "name (operator)".
        subnormal_weights: Weights so small that they slow some CPUs; 0 after :func:`export_onnx`.
        batch: Number of images that ``macs`` and ``activations`` stand for.
        size: Height and width of the images; empty for a network that takes no images.
        activations: Numbers that the layers put out.
        weight_bytes: Size of what is stored for the layers.
        components: By the first name in the layers' paths, such as ``backbone`` and ``decoders.depth``; together they
            are the whole. What belongs to no layer is under ``(graph)``.
        tasks: What the file would cost if it had this output alone; layers that several tasks need count for each.
    """

    params: int
    macs: int
    file_bytes: int
    uncounted: tuple[str, ...]
    subnormal_weights: int
    batch: int = 1
    size: tuple[int, ...] = ()
    activations: int = 0
    weight_bytes: int = 0
    components: Mapping[str, PartCost] = field(default_factory=dict)
    tasks: Mapping[str, PartCost] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        return {**asdict(self), "uncounted": list(self.uncounted), "size": list(self.size)}

    def __str__(self) -> str:
        text = (
            f"{self.params / 1e6:.3f} M parameters, {self.macs / 1e6:.1f} M MACs at batch {self.batch}, "
            f"{self.file_bytes / 2**20:.2f} MiB"
        )
        return text + (f"; not counted: {', '.join(self.uncounted)}" if self.uncounted else "")


def count_cost(path: Path, *, batch: int = 1, size: tuple[int, int] | None = None) -> Cost:
    """Count weights, multiply-accumulates and activations of an ONNX file in its own graph.

    MACs are exact for Conv, ConvTranspose (grouped ones too; padding counts as data), Gemm and MatMul;
    adding a bias, normalising, activating and resizing are free, as in ``torch.utils.flop_counter``. Weights
    are all stored floating-point arrays with at least one axis; for a quantised network, the arrays that
    are dequantised. Convolution and normalisation merge at export, so that the number of parameters
    can differ a little from the PyTorch model's. Activations are the floating-point outputs of all nodes.

    Args:
        path: The ONNX file.
        batch: Number of images, where the file leaves that open.
        size: Height and width, where the file leaves them open; by default those it was exported with.

    Raises:
        ArtifactError: The file is missing, is no ONNX network, contradicts itself, or says nothing of the size.
        ValueError: ``batch`` is below 1, or ``size`` is not the file's.
    """
    path = Path(path)
    if batch < 1:
        raise ValueError(f"Expected `batch` to be at least 1, but got {batch}.")
    network = load_network(path)
    images = example_shape(path, network, batch, size)
    shapes = graph_shapes(path, network, images)
    counted, uncounted = _count_macs(network.graph, shapes)
    parts = _Parts(network.graph, shapes, counted)
    outputs = [output.name for output in network.graph.output]
    whole = parts.cost(range(len(network.graph.node)))
    return Cost(
        params=_count_params(network.graph),
        macs=whole.macs,
        file_bytes=path.stat().st_size,
        uncounted=uncounted,
        subnormal_weights=count_subnormals(network),
        batch=images[0],
        size=images[2:],
        activations=whole.activations,
        weight_bytes=whole.weight_bytes,
        components=parts.by_component(outputs),
        tasks={name: parts.cost(nodes_for(network.graph, [name])) for name in outputs},
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


def _count_macs(graph: onnx.GraphProto, shapes: Mapping[str, Shape]) -> tuple[list[int], tuple[str, ...]]:
    """Count the multiply-accumulates of every node, and name those that are not counted."""
    macs, uncounted = [0] * len(graph.node), []
    for place, node in enumerate(graph.node):
        name = f"{node.name or node.output[0]} ({node.op_type})"
        if node.op_type in _UNCOUNTED or node.domain not in _STANDARD_DOMAINS:
            uncounted.append(name)
        elif node.op_type in COUNTERS:
            try:
                macs[place] = COUNTERS[node.op_type](node, shapes)
            except KeyError:  # a size depends on the data
                uncounted.append(name)
    return macs, tuple(uncounted)


class _Parts:
    """Map from some nodes of a graph to their cost; every weight belongs to the first node that reads it."""

    def __init__(self, graph: onnx.GraphProto, shapes: Mapping[str, Shape], macs: list[int]) -> None:
        self._graph, self._shapes, self._macs = graph, shapes, macs
        self._stored = {tensor.name: tensor for tensor in graph.initializer}
        self._weights = _weights(graph)
        self._integers = {
            value.name
            for value in [*graph.value_info, *graph.output]
            if value.type.tensor_type.elem_type in (onnx.TensorProto.INT64, onnx.TensorProto.BOOL)
        }

    def cost(self, places: Collection[int]) -> PartCost:
        """Return what some nodes cost with all that they read."""
        read = {name for place in places for name in self._graph.node[place].input if name in self._stored}
        return self._cost(places, read)

    def by_component(self, outputs: Collection[str]) -> dict[str, PartCost]:
        """Return what each component costs, in the graph's order."""
        places: dict[str, list[int]] = {}
        read: dict[str, set[str]] = {}
        taken: set[str] = set()
        for place, node in enumerate(self._graph.node):
            own = [name for name in node.input if name in self._stored and name not in taken]
            taken.update(own)
            component = _component(node, self._weights, outputs)
            places.setdefault(component, []).append(place)
            read.setdefault(component, set()).update(own)
        return {name: self._cost(own, read[name]) for name, own in places.items()}

    def _cost(self, places: Collection[int], read: Collection[str]) -> PartCost:
        made = [name for place in places for name in self._graph.node[place].output]
        return PartCost(
            params=sum(prod(self._stored[name].dims) for name in read if name in self._weights),
            weight_bytes=sum(_bytes(self._stored[name]) for name in read),
            macs=sum(self._macs[place] for place in places),
            activations=sum(
                prod(self._shapes[name])
                for name in made
                if name in self._shapes and name not in self._integers
            ),
        )


def _component(node: onnx.NodeProto, weights: Collection[str], outputs: Collection[str]) -> str:
    path = node.name.strip("/").rpartition("/")[0].replace("/", ".")
    if not path:
        owned = [name for name in node.input if name in weights and "." in name]
        path = owned[0].rpartition(".")[0] if owned else ""
    first, _, rest = path.partition(".")
    second = rest.partition(".")[0]
    return f"{first}.{second}" if second in outputs else first or "(graph)"


def _count_params(graph: onnx.GraphProto) -> int:
    weights = _weights(graph)
    return sum(prod(tensor.dims) for tensor in graph.initializer if tensor.name in weights)


def _weights(graph: onnx.GraphProto) -> set[str]:
    settings: set[str] = set()
    quantised: set[str] = set()
    for node in graph.node:
        settings.update(
            name for slot, name in enumerate(node.input) if slot in _SETTINGS.get(node.op_type, ())
        )
        if node.op_type == "DequantizeLinear":
            quantised.add(node.input[0])
    return {
        tensor.name
        for tensor in graph.initializer
        if tensor.dims and tensor.name not in settings and (_is_float(tensor) or tensor.name in quantised)
    }


def _bytes(tensor: onnx.TensorProto) -> int:
    return int(prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


def _is_float(tensor: onnx.TensorProto) -> bool:
    kinds = onnx.TensorProto
    return tensor.data_type in (kinds.FLOAT, kinds.DOUBLE, kinds.FLOAT16, kinds.BFLOAT16)
