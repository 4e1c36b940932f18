"""The shape of every value of an ONNX graph, for one batch size and image size."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import onnx

from lomt.deploy.exporter import quiet_exporter
from lomt.errors import ArtifactError

__all__ = ["Shape", "example_shape", "graph_shapes"]

Shape = tuple[int, ...]
_SIZE_AXES: Final = (2, 3)


def example_shape(path: Path, network: onnx.ModelProto, batch: int, size: tuple[int, int] | None) -> Shape:
    """Return the shape of the images for which a network is looked at.

    Args:
        path: Of the file, for messages.
        network: Its content.
        batch: Number of images, where the file leaves that open.
        size: Height and width, where the file leaves them open; by default those it was exported with.

    Raises:
        ArtifactError: The file leaves a size open, and neither ``size`` nor its metadata say which.
        ValueError: The file takes another size.
    """
    stored = {tensor.name for tensor in network.graph.initializer}
    images = next(value for value in network.graph.input if value.name not in stored)
    dims = [dim.dim_value or None for dim in images.type.tensor_type.shape.dim]
    noted = _noted_example(network)
    shape: list[int | None] = [(dims[0] or batch) if dims else None, *dims[1:]]
    for axis in range(1, len(shape)):
        asked = size[axis - 2] if size is not None and axis in _SIZE_AXES else None
        if asked is not None and dims[axis] not in (None, asked):
            raise ValueError(f"Expected `size` to be that of `{path}`, {dims[2]}x{dims[3]}, but got {size}.")
        shape[axis] = dims[axis] or asked or (noted[axis] if axis < len(noted) else None)
    known = tuple(own for own in shape if own is not None)
    if len(known) < len(shape):
        raise ArtifactError(
            f"Expected `{path}` to say how large its images are, but it leaves the size open. Give a height and width."
        )
    return known


def graph_shapes(path: Path, network: onnx.ModelProto, images: Shape) -> dict[str, Shape]:
    """Find the shape of every value whose shape does not depend on the data.

    Shapes are inferred anew for these images. What only follows from computations with sizes is computed first, and
    where inference gives up, as behind some reshapes, the shapes noted in the file count, which the exporter knew.

    Args:
        path: Of the file, for messages.
        network: Its content; left as it is.
        images: Shape of the images.

    Raises:
        ArtifactError: The file contradicts itself.
    """
    stored = {tensor.name: tuple(tensor.dims) for tensor in network.graph.initializer}
    fixed = onnx.ModelProto()
    fixed.CopyFrom(network)
    del fixed.graph.value_info[:]
    for output in fixed.graph.output:
        output.type.tensor_type.ClearField("shape")
    open_sizes: dict[str, int] = {}
    for value in fixed.graph.input:
        dims = value.type.tensor_type.shape.dim
        if value.name not in stored and len(dims) == len(images):
            for dim, size in zip(dims, images, strict=True):
                if dim.dim_param:
                    open_sizes[dim.dim_param] = size
                dim.dim_value = size
    noted = _known(network.graph, open_sizes)
    inferred = _inferred(path, fixed, images)
    found = {**noted, **_known(inferred.graph, {}), **stored}
    values = {name for node in fixed.graph.node for name in node.output}
    if len(open_sizes) > 1 and not values <= set(found):
        found = {**_known(_inferred(path, _folded(fixed), images).graph, {}), **found}
    return found


def _folded(network: onnx.ModelProto) -> onnx.ModelProto:
    from onnxscript import optimizer

    with quiet_exporter():
        folded = onnx.ModelProto()
        folded.CopyFrom(network)
        optimizer.fold_constants(folded)
    del folded.graph.value_info[:]
    return folded


def _inferred(path: Path, network: onnx.ModelProto, images: Shape) -> onnx.ModelProto:
    try:
        return onnx.shape_inference.infer_shapes(network, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        reason = f"Expected the shapes in `{path}` to fit together at batch {images[0]}, but got: {error}"
        raise ArtifactError(reason) from error


def _known(graph: onnx.GraphProto, open_sizes: Mapping[str, int]) -> dict[str, Shape]:
    shapes = {}
    for value in [*graph.input, *graph.value_info, *graph.output]:
        if value.type.tensor_type.HasField("shape"):
            sizes = [_size(size, open_sizes) for size in value.type.tensor_type.shape.dim]
            if None not in sizes:
                shapes[value.name] = tuple(size for size in sizes if size is not None)
    return shapes


def _size(size: onnx.TensorShapeProto.Dimension, open_sizes: Mapping[str, int]) -> int | None:
    return int(size.dim_value) if size.HasField("dim_value") else open_sizes.get(size.dim_param)


def _noted_example(network: onnx.ModelProto) -> list[int]:
    entries = {entry.key: entry.value for entry in network.metadata_props}
    try:
        found = json.loads(entries.get("lomt.input", "{}")).get("example", [])
    except (ValueError, AttributeError):
        return []
    return [int(size) for size in found] if isinstance(found, list) else []
