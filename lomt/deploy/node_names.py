"""Names of nodes that say which layer they are, so that costs and times can be told by layer."""

import ast
from collections import Counter
from typing import Final

import onnx

__all__ = ["name_nodes"]

_SCOPES: Final = "pkg.torch.onnx.name_scopes"


def name_nodes(network: onnx.ModelProto, root: str = "") -> None:
    """Name every node of an exported network `<path of the layer>/<operator>`, in place.

    A node that reads a weight belongs to the weight's layer, any other to the module in which the exporter saw it.
    Names that occur twice get a number. It must be called before the exporter's notes are dropped.

    Args:
        network: As torch's exporter left it.
        root: Path of the module that paths shall begin in.
    """
    weights = {tensor.name for tensor in network.graph.initializer}
    seen: Counter[str] = Counter()
    for node in network.graph.node:
        path = _layer_read(node, weights) or _module_noted(node)
        path = "" if path == root else path.removeprefix(f"{root}.")
        name = f"{path}/{node.op_type}" if path else node.op_type
        seen[name] += 1
        node.name = name if seen[name] == 1 else f"{name}_{seen[name]}"


def _layer_read(node: onnx.NodeProto, weights: set[str]) -> str:
    # Only parameters have dotted names; folded constants are called `val_7` and the like.
    own = [name for name in node.input if name in weights and "." in name]
    return own[0].rpartition(".")[0] if own else ""


def _module_noted(node: onnx.NodeProto) -> str:
    noted = next((entry.value for entry in node.metadata_props if entry.key == _SCOPES), None)
    try:
        scopes = ast.literal_eval(noted) if noted else []
    except (ValueError, SyntaxError):
        return ""
    # The last one is the operation itself.
    path = str(scopes[-2]) if isinstance(scopes, list) and len(scopes) > 1 else ""
    return "" if path.startswith("_") else path  # `_empty_nn_module_stack...`: in no module
