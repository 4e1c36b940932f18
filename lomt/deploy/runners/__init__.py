"""What runs a network in the process that times: one class a kind of software, each imported when it is used."""

from importlib import import_module
from typing import Any, Final

from lomt.deploy.runners.runner import Runner, RunSettings

__all__ = ["RunSettings", "Runner", "open_runner"]

_HOMES: Final = {
    "cpu": ("onnxruntime_runner", "OnnxruntimeRunner"),
    "cuda": ("onnxruntime_runner", "OnnxruntimeRunner"),
    "tensorrt": ("onnxruntime_runner", "OnnxruntimeRunner"),
    "openvino": ("openvino_runner", "OpenvinoRunner"),
    "torch": ("torch_runner", "TorchRunner"),
    "torch-compile": ("torch_runner", "TorchRunner"),
}


def open_runner(source: str, settings: RunSettings) -> Runner:
    """Open a network with the software that the settings name, ready to run.

    Args:
        source: An ONNX file; for PyTorch a factory or a directory with a saved model.
        settings: How it is run.

    Raises:
        ProviderError: The software cannot run the network on that device.
        ArtifactError: The network is missing or damaged.
    """
    module, name = _HOMES[settings.provider]
    kind: Any = getattr(import_module(f"{__name__}.{module}"), name)
    runner: Runner = kind(source, settings)
    return runner
