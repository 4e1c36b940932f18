"""An ONNX file as a function from images to named outputs."""

import json
from pathlib import Path

import numpy as np
from jaxtyping import Float

from lomt.deploy.session import Device, open_session
from lomt.errors import ArtifactError

__all__ = ["OnnxModel"]


class OnnxModel:
    """Map from images to a dictionary of output name → array, computed by onnxruntime.

    Args:
        path: The ONNX file; it has one input.
        threads: Intra-op threads.
        device: ``"cpu"`` or ``"cuda"``.

    Attributes:
        path: The file.
        batch_size: The only number of images that the file takes; ``None`` for any.
        input_shape: Channels, height and width; ``None`` where the file leaves the size open.
        outputs: The names of the outputs, in the file's order.
        metadata: What the file says about itself.

    Raises:
        ArtifactError: The file is missing, is no ONNX network or has several inputs.
        ProviderError: The device cannot be used.
    """

    def __init__(self, path: Path, threads: int = 1, device: Device = "cpu") -> None:
        self.path = Path(path)
        self._session = open_session(self.path, threads=threads, device=device)
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            raise ArtifactError(
                f"Expected `{self.path}` to have one input, the images, but got "
                f"{', '.join(found.name for found in inputs) or 'none'}."
            )
        image_input = inputs[0]
        self._input_name = image_input.name
        self.batch_size = image_input.shape[0] if isinstance(image_input.shape[0], int) else None
        self.input_shape = tuple(size if isinstance(size, int) else None for size in image_input.shape[1:])
        self.outputs = tuple(output.name for output in self._session.get_outputs())
        self.metadata = dict(self._session.get_modelmeta().custom_metadata_map)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks the file was exported for; the outputs' names for a file of other origin."""
        return tuple(json.loads(self.metadata.get("lomt.tasks", json.dumps(self.outputs))))

    def __call__(self, images: Float[np.ndarray, "batch channels height width"]) -> dict[str, np.ndarray]:
        """Run the network.

        Args:
            images: Converted to float32; of the size the file was exported for.

        Raises:
            ValueError: The images have another size.
        """
        expected = self.input_shape
        is_fitting = len(images.shape[1:]) == len(expected) and all(
            wanted in (None, size) for wanted, size in zip(expected, images.shape[1:], strict=True)
        )
        if not is_fitting:
            raise ValueError(
                f"Expected `images` for `{self.path}` to have the shape (batch, "
                f"{', '.join(str(size or 'any') for size in expected)}), but got {images.shape}."
            )
        feed = {self._input_name: np.ascontiguousarray(images, dtype=np.float32)}
        return dict(zip(self.outputs, self._session.run(list(self.outputs), feed), strict=True))
