"""The part of an ONNX graph that some of its outputs need."""

from collections.abc import Iterable, Sequence

import onnx

from lomt.deploy.onnx_graph import subgraphs

__all__ = ["keep_outputs", "nodes_for"]


def keep_outputs(network: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """Copy a network with some of its outputs, in the order given, and only what they are computed from.

    Args:
        network: Left as it is.
        names: Names of outputs.
    """
    graph = network.graph
    needed = set(nodes_for(graph, names))
    read = {name for place in needed for name in _reads(graph.node[place])} | set(names)
    smaller = onnx.ModelProto()
    smaller.CopyFrom(network)
    _keep(smaller.graph.node, needed)
    for values in (smaller.graph.initializer, smaller.graph.value_info):
        made = {name for node in smaller.graph.node for name in node.output} | read
        _keep(values, {place for place, value in enumerate(values) if value.name in made})
    outputs = {output.name: output for output in graph.output}
    del smaller.graph.output[:]
    smaller.graph.output.extend(outputs[name] for name in names)
    return smaller


def nodes_for(graph: onnx.GraphProto, names: Iterable[str]) -> list[int]:
    """List the places of the nodes from which some values are computed, in the graph's order."""
    wanted = set(names)
    found = []
    for place in reversed(range(len(graph.node))):  # a graph is sorted: whoever computes stands before
        node = graph.node[place]
        if wanted & set(node.output):
            found.append(place)
            wanted.update(_reads(node))
    return found[::-1]


def _reads(node: onnx.NodeProto) -> set[str]:
    inner = (own for attribute in node.attribute for graph in subgraphs(attribute) for own in graph.node)
    return set(node.input).union(*(_reads(own) for own in inner))


def _keep(values: "onnx.GraphProto.node", places: set[int]) -> None:
    for place in reversed(range(len(values))):
        if place not in places:
            del values[place]
