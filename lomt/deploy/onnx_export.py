"""From a multitask model to one ONNX file whose outputs carry the task names."""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import onnx
import torch
from jaxtyping import Float
from torch import Tensor, nn

from lomt import __version__
from lomt.deploy.exporter import quiet_exporter, root_cause
from lomt.deploy.inference_copy import inference_copy, task_outputs
from lomt.deploy.onnx_gelu import reorder_gelus
from lomt.deploy.onnx_graph import clear_trace, flush_subnormals, name_outputs, remove_prefix, set_metadata
from lomt.errors import ArtifactError, UnknownNameError, UnsupportedLayerError

__all__ = ["INPUT_NAME", "export_onnx"]

INPUT_NAME: Final = "images"

_LEAST_OPSET = 18
_MOST_BYTES = 2**31 - 1
_METADATA_PREFIX = "lomt."
_logger = logging.getLogger(__name__)


def export_onnx(
    model: nn.Module,
    example_inputs: Float[Tensor, "batch channels height width"],
    path: Path,
    *,
    tasks: Sequence[str] | None = None,
    opset: int = _LEAST_OPSET,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write a multitask model as one float32 ONNX file with named outputs and a dynamic batch.

    The outputs stand in the order of ``tasks`` and bear the task names, whatever the order in which the
    model returns them; what only other tasks need is not in the file. Height and width are fixed to those
    of the example. Subnormal weights become zero in the file. The file appears under its name only when
    complete; until then, and when anything fails, an earlier file of that name stays as it was.

    Args:
        model: Module from images to a dictionary of task name → tensor; may be on any device, in any
            floating type and in training mode, and is left exactly so.
        example_inputs: Images of the size the network is to be used with; the batch size does not matter.
        path: Where the file goes; its folder exists.
        tasks: Which tasks, in which order; by default all, in the model's order.
        opset: Version of the ONNX operator set, at least 18.
        metadata: Further entries for the file's metadata. ``lomt.version``, ``lomt.torch``, ``lomt.opset``
            and ``lomt.tasks`` (a JSON list) are always there.

    Returns:
        The path of the file.

    Raises:
        ValueError: ``example_inputs``, ``tasks``, ``opset`` or ``metadata`` cannot be used.
        UnknownNameError: The model has no task of a name in ``tasks``.
        TypeError: The model does not return a dictionary of tensors.
        UnsupportedLayerError: The exporter cannot express the model.
        ArtifactError: The network is too large for one file.
    """
    path = Path(path)
    _check_arguments(example_inputs, opset, path)
    entries = _metadata(metadata or {}, opset)
    reference = inference_copy(model)
    # torch.export takes a size of 1 for a constant: two images make the batch a variable.
    images = example_inputs.detach().to("cpu", torch.float32)[:1].repeat(2, 1, 1, 1)
    names = _task_names(tuple(task_outputs(reference, images)), tasks)
    network = _trace(_Positional(reference, names), images, len(names), opset)
    _finish(network, names, {**entries, "lomt.tasks": json.dumps(names)})
    _write_atomically(network, path)
    return path


class _Positional(nn.Module):
    """Map from images to the outputs of the named tasks, in order; the exporter can only label positions."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.names = tuple(names)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        outputs = self.model(images)
        return tuple(outputs[name] for name in self.names)


def _check_arguments(example_inputs: Tensor, opset: int, path: Path) -> None:
    if example_inputs.ndim != 4 or not example_inputs.is_floating_point() or 0 in example_inputs.shape:
        raise ValueError(
            "Expected `example_inputs` to be floating-point images (batch, channels, height, width), but got "
            f"{example_inputs.dtype} of shape {tuple(example_inputs.shape)}."
        )
    if opset < _LEAST_OPSET:
        raise ValueError(f"Expected `opset` to be at least {_LEAST_OPSET}, but got {opset}.")
    if not path.parent.is_dir():
        raise ValueError(f"Expected the folder of `path` to exist, but got `{path}`. Make the folder first.")


def _metadata(metadata: Mapping[str, str], opset: int) -> dict[str, str]:
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise ValueError(f"Expected `metadata` to map text to text, but got {key!r}: {value!r}.")
        if key.startswith(_METADATA_PREFIX):
            raise ValueError(
                f"Expected the keys of `metadata` not to begin with `{_METADATA_PREFIX}`, but got `{key}`. "
                "These are lomt's own."
            )
    return {
        **metadata,
        "lomt.version": __version__,
        "lomt.torch": torch.__version__,
        "lomt.opset": str(opset),
    }


def _task_names(known: Sequence[str], tasks: Sequence[str] | None) -> list[str]:
    names = list(known if tasks is None else tasks)
    for name in names:
        if name not in known:
            raise UnknownNameError("task", name, known)
    if not names or len(set(names)) != len(names):
        raise ValueError(f"Expected `tasks` to name at least one task and none twice, but got {names}.")
    for name in names:
        if name in ("", INPUT_NAME):
            raise ValueError(
                f"Expected every task to have a name, and not the input's, `{INPUT_NAME}`, but got `{name}`. "
                "Rename the task."
            )
    return names


def _trace(wrapper: nn.Module, images: Tensor, count: int, opset: int) -> onnx.ModelProto:
    placeholders = [f"lomt.output.{number}" for number in range(count)]
    try:
        with quiet_exporter():
            program: Any = torch.onnx.export(
                wrapper.eval(),
                (images,),
                dynamo=True,
                verbose=False,
                external_data=False,
                opset_version=opset,
                input_names=[INPUT_NAME],
                output_names=placeholders,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
            )
            network: onnx.ModelProto = program.model_proto
    except Exception as error:
        raise UnsupportedLayerError(
            f"Expected the model to be expressible in ONNX (opset {opset}) with a variable batch, but got: "
            f"{root_cause(error)}. Replace the layer or the data-dependent code that this names."
        ) from error
    return network


def _finish(network: onnx.ModelProto, names: Sequence[str], entries: Mapping[str, str]) -> None:
    clear_trace(network)
    remove_prefix(network, "model.")  # the wrapper's attribute
    name_outputs(network, names)
    reorder_gelus(network)
    flushed = flush_subnormals(network)
    if flushed:
        _logger.info("Set %d subnormal weights to zero.", flushed)
    set_metadata(network, entries)


def _write_atomically(network: onnx.ModelProto, path: Path) -> None:
    size = network.ByteSize()
    if size > _MOST_BYTES:
        raise ArtifactError(
            f"Expected the network to fit one ONNX file of at most {_MOST_BYTES} bytes, but got {size} bytes."
        )
    onnx.checker.check_model(network, full_check=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(network.SerializeToString(deterministic=True))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
