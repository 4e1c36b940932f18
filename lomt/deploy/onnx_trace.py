"""Torch's exporter and what its graph needs before it is a file: open sizes, names, no notes, no subnormals."""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import onnx
import torch
from jaxtyping import Float
from torch import Tensor

from lomt.deploy.deployed_network import DeployedNetwork
from lomt.deploy.exporter import quiet_exporter, root_cause
from lomt.deploy.image_sizes import other_size, refusal
from lomt.deploy.node_names import name_nodes
from lomt.deploy.onnx_gelu import reorder_gelus
from lomt.deploy.onnx_graph import clear_trace, flush_subnormals, name_outputs, remove_prefix
from lomt.errors import UnsupportedLayerError

__all__ = ["INPUT_NAME", "Traced", "trace_onnx"]

INPUT_NAME: Final = "images"

_WRAPPER = "model"
_BATCH, _AXES = "batch", {2: "height", 3: "width"}
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Traced:
    """A network as ONNX.

    Args:
        network: Outputs bear the task names; there are no metadata yet.
        reason: Why height and width are fixed; empty where they are open.
    """

    network: onnx.ModelProto
    reason: str

    @property
    def has_open_size(self) -> bool:
        """Whether the network takes images of any height and width."""
        return not self.reason


def trace_onnx(
    deployed: DeployedNetwork,
    images: Float[Tensor, "batch channels height width"],
    opset: int,
    *,
    fixed_batch: bool = False,
    fixed_size: str = "",
) -> Traced:
    """Export a network once, with as many open sizes as it allows.

    Height and width are open where the model runs on images of another size and the exporter finds nothing in it
    that fixes them; nothing is proven by that, see :func:`lomt.deploy.verify_onnx`.

    Args:
        deployed: In eval mode, float32, on the CPU.
        images: Images of the size to use.
        opset: Version of the operator set.
        fixed_batch: Whether the batch size is that of ``images`` and no other.
        fixed_size: Why height and width shall be fixed; empty to leave them open where possible.

    Raises:
        UnsupportedLayerError: The exporter cannot express the model.
    """
    height, width = images.shape[-2:]
    refused = "" if fixed_size else refusal(deployed, images[:1], other_size(height, width))
    reason = fixed_size or refused.replace(f"`{_WRAPPER}.", "`")
    open_axes: dict[int, Any] = {} if fixed_batch else {0: torch.export.Dim(_BATCH)}
    # torch.export takes a size of 1 for a constant: two images make the batch a variable.
    example = images if fixed_batch or len(images) > 1 else images.repeat(2, 1, 1, 1)
    network = None
    if not reason:
        try:
            sizes = dict.fromkeys(_AXES, torch.export.Dim.AUTO)
            network = _export(deployed, example, opset, {**open_axes, **sizes})
            reason = _fixed_by_exporter(network)
        except UnsupportedLayerError as error:
            reason = f"the exporter cannot leave them open: {root_cause(error)}"
    if network is None:
        network = _export(deployed, example, opset, open_axes)
    _name_sizes(network)
    _finish(network, deployed.names)
    return Traced(network, reason)


def _export(
    deployed: DeployedNetwork, images: Tensor, opset: int, open_axes: Mapping[int, Any]
) -> onnx.ModelProto:
    try:
        with quiet_exporter(), torch.no_grad():
            program: Any = torch.onnx.export(
                deployed,
                (images,),
                dynamo=True,
                verbose=False,
                external_data=False,
                opset_version=opset,
                input_names=[INPUT_NAME],
                output_names=[f"lomt.output.{number}" for number in range(len(deployed.names))],
                dynamic_shapes=(dict(open_axes),) if open_axes else None,
            )
            network: onnx.ModelProto = program.model_proto
    except Exception as error:  # the exporter's errors have no common class
        batch = " with a variable batch" if open_axes else ""
        raise UnsupportedLayerError(
            f"Expected the model to be expressible in ONNX (opset {opset}){batch}, but got: "
            f"{root_cause(error)}. Replace the layer or the data-dependent code that this names."
        ) from error
    return network


def _fixed_by_exporter(network: onnx.ModelProto) -> str:
    sizes = network.graph.input[0].type.tensor_type.shape.dim
    fixed = [
        f"{name} at {sizes[axis].dim_value}" for axis, name in _AXES.items() if not sizes[axis].dim_param
    ]
    return f"the exporter found that the model fixes {' and '.join(fixed)}" if fixed else ""


def _name_sizes(network: onnx.ModelProto) -> None:
    """Call the open sizes height and width, wherever the exporter's own symbols stand."""
    sizes = network.graph.input[0].type.tensor_type.shape.dim
    names = {
        sizes[axis].dim_param: name for axis, name in _AXES.items() if sizes[axis].dim_param.isidentifier()
    }
    if not names:
        return
    symbols = re.compile(rf"\b({'|'.join(map(re.escape, names))})\b")
    for value in [*network.graph.input, *network.graph.output, *network.graph.value_info]:
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param:
                size.dim_param = symbols.sub(lambda found: names[found[0]], size.dim_param)


def _finish(network: onnx.ModelProto, names: Sequence[str]) -> None:
    name_nodes(network, _WRAPPER)
    clear_trace(network)
    remove_prefix(network, f"{_WRAPPER}.")
    name_outputs(network, names)
    reorder_gelus(network)
    flushed = flush_subnormals(network)
    if flushed:
        _logger.info("Set %d subnormal weights to zero.", flushed)
