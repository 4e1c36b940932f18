"""Small changes to an exported ONNX graph: names, subnormal weights, metadata."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from lomt.errors import ArtifactError

__all__ = [
    "clear_trace",
    "count_subnormals",
    "flush_subnormals",
    "load_network",
    "name_outputs",
    "remove_prefix",
    "set_metadata",
    "subgraphs",
]

_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)


def load_network(path: Path) -> onnx.ModelProto:
    """Read and check an ONNX file.

    Raises:
        ArtifactError: The file is missing or is no ONNX network.
    """
    if not path.is_file():
        raise ArtifactError(f"Expected `{path}` to be an ONNX file, but there is none. Export it first.")
    try:
        network = onnx.load(path)
        onnx.checker.check_model(network)
    except Exception as error:  # protobuf's and onnx's errors have no common class
        reason = f"Expected `{path}` to be an ONNX network, but got: {error}. Export it again."
        raise ArtifactError(reason) from error
    return network


def name_outputs(model: onnx.ModelProto, names: Sequence[str]) -> None:
    """Give the outputs these names, in order; inner values that bear one of them get another name.

    Args:
        model: The network; changed in place.
        names: One name an output; none may be the name of an input.
    """
    outputs = [output.name for output in model.graph.output]
    taken = _value_names(model.graph) | set(names)
    mapping = {}
    for name in sorted(_value_names(model.graph) & set(names) - set(outputs)):
        mapping[name] = _unused_name(name, taken)
        taken.add(mapping[name])
    mapping.update(zip(outputs, names, strict=True))
    _rename_values(model.graph, mapping)


def remove_prefix(model: onnx.ModelProto, prefix: str) -> None:
    """Take a common beginning off the weights' names, in place, unless another value has the shorter name."""
    taken = _value_names(model.graph)
    stored = [tensor.name for tensor in model.graph.initializer if tensor.name.startswith(prefix)]
    shorter = {name: name.removeprefix(prefix) for name in stored}
    _rename_values(model.graph, {name: short for name, short in shorter.items() if short not in taken})


def _rename_values(graph: onnx.GraphProto, mapping: Mapping[str, str]) -> None:
    for value in [*graph.input, *graph.output, *graph.value_info, *graph.initializer]:
        value.name = mapping.get(value.name, value.name)
    for node in graph.node:
        node.input[:] = [mapping.get(name, name) for name in node.input]
        node.output[:] = [mapping.get(name, name) for name in node.output]
        for attribute in node.attribute:
            for subgraph in subgraphs(attribute):
                _rename_values(subgraph, mapping)


def flush_subnormals(model: onnx.ModelProto) -> int:
    """Set subnormal weights to zero, in place: they can slow a CPU several times and carry no information.

    Returns:
        How many numbers were set to zero.
    """
    flushed = 0
    for tensor in _tensors(model.graph):
        found = _subnormal(tensor)
        if found is not None and found.any():
            array = numpy_helper.to_array(tensor).copy()
            array[found] = 0
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
            flushed += int(found.sum())
    return flushed


def count_subnormals(model: onnx.ModelProto) -> int:
    """Count the stored floating-point numbers that are not zero but below the smallest normal one."""
    found = (_subnormal(tensor) for tensor in _tensors(model.graph))
    return sum(int(mask.sum()) for mask in found if mask is not None)


def clear_trace(model: onnx.ModelProto) -> None:
    """Drop what the exporter notes on every node: source lines and paths of the exporting machine."""
    graph = model.graph
    for item in [
        model,
        graph,
        *graph.node,
        *graph.input,
        *graph.output,
        *graph.value_info,
        *graph.initializer,
    ]:
        del item.metadata_props[:]
        item.doc_string = ""


def set_metadata(model: onnx.ModelProto, metadata: Mapping[str, str]) -> None:
    """Store the entries, sorted by key, as the model's metadata; earlier entries are dropped."""
    del model.metadata_props[:]
    for key, value in sorted(metadata.items()):
        model.metadata_props.add(key=key, value=value)


def _value_names(graph: onnx.GraphProto) -> set[str]:
    names = {value.name for value in [*graph.input, *graph.initializer]}
    for node in graph.node:
        names.update(node.output)
        for attribute in node.attribute:
            for subgraph in subgraphs(attribute):
                names |= _value_names(subgraph)
    return names - {""}


def _unused_name(name: str, taken: set[str]) -> str:
    number = 1
    while f"{name}_{number}" in taken:
        number += 1
    return f"{name}_{number}"


def subgraphs(attribute: onnx.AttributeProto) -> list[onnx.GraphProto]:
    return [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            for subgraph in subgraphs(attribute):
                yield from _tensors(subgraph)


def _subnormal(tensor: onnx.TensorProto) -> np.ndarray | None:
    if tensor.data_type not in _FLOATS:
        return None
    array = numpy_helper.to_array(tensor)
    return np.asarray((array != 0) & (np.abs(array) < np.finfo(array.dtype).tiny))
