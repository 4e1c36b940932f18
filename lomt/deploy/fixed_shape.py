"""The images that ONNX files take: their input, and the size that several files have in common."""

from collections.abc import Mapping, Sequence

import onnx

from lomt.errors import ArtifactError

__all__ = ["common_shape", "image_input"]


def image_input(network: onnx.ModelProto, name: str) -> onnx.ValueInfoProto:
    """Return the only input of a network that is not a stored weight.

    Args:
        network: The network.
        name: What a message calls it.

    Raises:
        ArtifactError: It has several inputs, or none.
    """
    stored = {tensor.name for tensor in network.graph.initializer}
    inputs: list[onnx.ValueInfoProto] = [own for own in network.graph.input if own.name not in stored]
    if len(inputs) != 1:
        found = ", ".join(value.name for value in inputs) or "none"
        raise ArtifactError(f"Expected `{name}` to have one input, the images, but got {found}.")
    return inputs[0]


def common_shape(
    networks: Mapping[str, onnx.ModelProto], baseline: str, wanted: Sequence[int] | None
) -> tuple[int, ...]:
    """Find the channels, height and width that all networks take.

    Args:
        networks: By arm.
        baseline: Arm whose file says the size where none is wanted.
        wanted: Channels, height and width; 0 for what the baseline's file says.

    Raises:
        ValueError: A size is left open, or a network takes images of another size.
        ArtifactError: A network has several inputs.
    """
    own = _image_shape(networks[baseline], baseline)
    shape = own if wanted is None else tuple(wanted)
    if len(shape) == len(own):
        shape = tuple(size or default for size, default in zip(shape, own, strict=True))
    if 0 in shape:
        open_shape = "x".join(str(size or "?") for size in shape)
        raise ValueError(
            f"Expected `input_shape`, as `{baseline}` takes images of any size ({open_shape}), but got None."
        )
    for name, network in networks.items():
        sizes = _image_shape(network, name)
        if len(sizes) != len(shape) or any(
            size not in (0, own) for size, own in zip(sizes, shape, strict=True)
        ):
            raise ValueError(
                f"Expected all arms to take images of shape {shape}, but got {sizes} for `{name}`. Export "
                "it for that size, or give another `input_shape`."
            )
    return shape


def _image_shape(network: onnx.ModelProto, name: str) -> tuple[int, ...]:
    return tuple(size.dim_value for size in image_input(network, name).type.tensor_type.shape.dim[1:])
