"""The software that runs networks to be timed, by the name a user gives it, and what to do where it is not there."""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Final, Literal, cast

import onnxruntime

from lomt.deploy.session import PROVIDERS, Device, ProviderError, check_device
from lomt.errors import UnknownNameError

__all__ = [
    "INSTALL",
    "Provider",
    "available_providers",
    "check_provider",
    "reads_onnx",
    "runs_on_gpu",
]

Provider = Literal["cpu", "cuda", "tensorrt", "openvino", "torch", "torch-compile"]

INSTALL: Final[Mapping[str, str]] = {
    "cpu": "Install onnxruntime.",
    "cuda": "Install onnxruntime-gpu in place of onnxruntime, with CUDA and cuDNN that fit it.",
    "tensorrt": "Install onnxruntime-gpu in place of onnxruntime, and TensorRT that fits it.",
    "openvino": "Install openvino (`pip install lomt[openvino]`).",
    "torch": "Install torch.",
    "torch-compile": "Install torch, and a C++ compiler (g++ or clang).",
}


def available_providers() -> tuple[str, ...]:
    """Return the providers that could be used here; nothing heavy is imported."""
    offered = onnxruntime.get_available_providers()
    found = [name for name, own in PROVIDERS.items() if own in offered]
    if find_spec("openvino") is not None:
        found.append("openvino")
    if find_spec("torch") is not None:
        found += ["torch", "torch-compile"]
    return tuple(found)


def check_provider(provider: str, device: str = "cpu") -> None:
    """Make sure that a provider is known and there.

    Args:
        provider: A name in :data:`INSTALL`.
        device: Where PyTorch runs, ``"cpu"`` or ``"cuda"``; the other providers say that themselves.

    Raises:
        UnknownNameError: There is no provider of that name.
        ProviderError: It is not installed; the message says what is and what to install.
        ValueError: The device cannot be used with it.
    """
    if provider not in INSTALL:
        raise UnknownNameError("provider", provider, INSTALL)
    if device not in ("cpu", "cuda"):
        raise UnknownNameError("device", device, ("cpu", "cuda"))
    if device != "cpu" and reads_onnx(provider):
        raise ValueError(
            f"Expected `device` to be cpu with provider {provider}, but got {device}. It is for the providers torch "
            "and torch-compile; use provider cuda or tensorrt to run ONNX files on a GPU."
        )
    available = available_providers()
    if provider not in available:
        raise ProviderError(
            f"Expected provider `{provider}` to be installed, but available here are {', '.join(available)}. "
            f"{INSTALL[provider]}"
        )
    if provider in PROVIDERS:
        check_device(cast(Device, provider))


def reads_onnx(provider: str) -> bool:
    """Whether the provider runs ONNX files; the others run PyTorch modules."""
    return not provider.startswith("torch")


def runs_on_gpu(provider: str, device: str = "cpu") -> bool:
    """Whether networks run on a GPU."""
    return provider in ("cuda", "tensorrt") or device == "cuda"
