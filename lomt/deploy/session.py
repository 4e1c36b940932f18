"""Opening an ONNX file in onnxruntime with every setting that matters for timing stated."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import onnxruntime

from lomt.errors import ArtifactError, LomtError

__all__ = ["PROVIDERS", "Device", "ProviderError", "check_device", "open_session"]

Device = Literal["cpu", "cuda", "tensorrt"]

PROVIDERS: Final[Mapping[str, str]] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}

_ERRORS_ONLY = 3


class ProviderError(LomtError, RuntimeError):
    """The network cannot be run by the software or on the device that was asked for."""


def open_session(
    path: Path,
    *,
    threads: int = 1,
    device: Device = "cpu",
    spinning: bool = True,
    provider_options: Mapping[str, Any] | None = None,
    profile: Path | None = None,
) -> onnxruntime.InferenceSession:
    """Open an ONNX file for sequential execution on exactly the device asked for.

    Operators run one after the other (one inter-op thread). With ``spinning`` the intra-op threads wait
    actively within a run; they always stop at its end, so that a session that is open beside this one is
    not slowed by it. On a GPU the silent fall-back to the CPU is disabled.

    Args:
        path: The ONNX file.
        threads: Intra-op threads, at least 1.
        device: ``"cpu"``, ``"cuda"`` or ``"tensorrt"``.
        spinning: Whether idle intra-op threads spin during a run.
        provider_options: Further options of onnxruntime's execution provider.
        profile: Where onnxruntime writes a trace of every operator; its name begins so.

    Raises:
        ValueError: ``threads`` is below 1.
        ProviderError: onnxruntime was built without that device, or would not use it for this file.
        ArtifactError: The file is missing or is no ONNX network.
    """
    if threads < 1:
        raise ValueError(f"Expected `threads` to be at least 1, but got {threads}.")
    path = Path(path)
    if not path.is_file():
        raise ArtifactError(f"Expected `{path}` to be an ONNX file, but there is none. Export it first.")
    check_device(device)
    options = _session_options(threads, device, spinning)
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    providers = [(PROVIDERS[device], {name: str(value) for name, value in (provider_options or {}).items()})]
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime has no common error class
        if device != "cpu":
            raise ProviderError(_not_used(path, device, str(error))) from error
        reason = f"Expected onnxruntime to load `{path}`, but got: {error}. Export it again."
        raise ArtifactError(reason) from error
    _check_is_used(session.get_providers(), path, device)
    return session


def _session_options(threads: int, device: Device, spinning: bool) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = _ERRORS_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if device != "cpu":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return options


def check_device(device: Device) -> None:
    """Make sure that onnxruntime was built for a device.

    Raises:
        ProviderError: It was not.
    """
    available = onnxruntime.get_available_providers()
    if PROVIDERS[device] not in available:
        raise ProviderError(
            f"Expected onnxruntime to offer `{PROVIDERS[device]}`, but version {onnxruntime.__version__} "
            f"offers {', '.join(available)}. Install onnxruntime-gpu in place of onnxruntime"
            f"{', and TensorRT beside it' if device == 'tensorrt' else ''}, or use device `cpu`."
        )


def _check_is_used(used: Sequence[str], path: Path, device: Device) -> None:
    # onnxruntime always appends the CPU provider; nothing may run there, which the session itself refuses.
    if used[0] != PROVIDERS[device]:
        raise ProviderError(_not_used(path, device, f"it runs on {', '.join(used)}"))


def _not_used(path: Path, device: Device, found: str) -> str:
    return (
        f"Expected `{path}` to run on `{PROVIDERS[device]}` alone, but got: {found}. Check that driver, CUDA "
        "and cuDNN fit this onnxruntime, or use device `cpu`."
    )
