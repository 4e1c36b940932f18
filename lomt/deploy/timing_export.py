"""Any model as an ONNX file for exactly its example inputs, to be timed and thrown away."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from lomt.deploy.exporter import quiet_exporter, root_cause
from lomt.deploy.graph_timing import Feed
from lomt.deploy.onnx_gelu import reorder_gelus
from lomt.deploy.onnx_graph import flush_subnormals
from lomt.errors import UnsupportedLayerError
from lomt.structure import Inputs, copy_model, named_outputs, run_model

__all__ = ["export_for_timing", "timing_feed"]

_OPSET = 18


def export_for_timing(model: nn.Module, example_inputs: Inputs, path: Path) -> Path:
    """Write a model as float32 ONNX with all sizes fixed, subnormal weights as zero, and any outputs.

    Args:
        model: In any mode, on any device; left as it is.
        example_inputs: One tensor, several, or several by name.
        path: Where the file goes.

    Raises:
        UnsupportedLayerError: The exporter cannot express the model.
    """
    tensors = _inputs_by_name(example_inputs)
    keywords = tuple(tensors) if isinstance(example_inputs, Mapping) else ()
    copied = copy_model(model).to(device="cpu", dtype=torch.float32).requires_grad_(False)
    wrapper = _Flat(
        copied.train().eval(), keywords
    )  # both: models that cache tensors in eval mode start afresh
    try:
        with quiet_exporter(), torch.no_grad():
            program: Any = torch.onnx.export(
                wrapper.eval(),
                tuple(tensors.values()),
                dynamo=True,
                verbose=False,
                external_data=False,
                opset_version=_OPSET,
                input_names=list(tensors),
            )
            network: onnx.ModelProto = program.model_proto
    except Exception as error:  # the exporter's errors have no common class
        raise UnsupportedLayerError(
            f"Expected the model to be expressible in ONNX, to be timed in onnxruntime, but got: {root_cause(error)}. "
            "Replace the layer or the data-dependent code that this names, or use a budget of MACs, parameters or "
            "channels."
        ) from error
    reorder_gelus(network)
    flush_subnormals(network)
    onnx.save(network, path)
    return path


def timing_feed(example_inputs: Inputs) -> Feed:
    """Return the inputs as the exported file takes them."""
    return {name: np.ascontiguousarray(own.numpy()) for name, own in _inputs_by_name(example_inputs).items()}


class _Flat(nn.Module):
    """Map from positional inputs to a tuple of all tensors that a model puts out."""

    def __init__(self, model: nn.Module, keywords: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.keywords = model, keywords

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        given: Inputs = dict(zip(self.keywords, inputs, strict=True)) if self.keywords else inputs
        return tuple(named_outputs(run_model(self.model, given)).values())


def _inputs_by_name(example_inputs: Inputs) -> dict[str, Tensor]:
    if isinstance(example_inputs, Mapping):
        named = dict(example_inputs)
    else:
        several = [example_inputs] if isinstance(example_inputs, Tensor) else example_inputs
        named = {f"input{number}": own for number, own in enumerate(several)}
    return {name: _as_float32(own.detach().cpu()) for name, own in named.items()}


def _as_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
