"""What leaves the house: ONNX files, the proof that they are right, what they cost and how fast they are.

The names are imported when first used. The process that times networks imports this package too, and it
must start quickly and never load torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lomt.deploy.cost import Cost, count_cost
    from lomt.deploy.environment import describe_environment
    from lomt.deploy.interface import Interface, Preprocessing
    from lomt.deploy.latency import LatencyError, measure_latency
    from lomt.deploy.latency_profile import LayerTimes, profile_layers
    from lomt.deploy.latency_report import ArmLatency, LatencyReport
    from lomt.deploy.latency_statistics import LatencyStatistics, SpeedUp
    from lomt.deploy.onnx_export import ExportedFile, export_files, export_onnx
    from lomt.deploy.onnx_model import OnnxModel
    from lomt.deploy.session import ProviderError
    from lomt.deploy.verify import OutputCheck, Verification, verify_onnx

__all__ = [
    "ArmLatency",
    "Cost",
    "ExportedFile",
    "Interface",
    "LatencyError",
    "LatencyReport",
    "LatencyStatistics",
    "LayerTimes",
    "OnnxModel",
    "OutputCheck",
    "Preprocessing",
    "ProviderError",
    "SpeedUp",
    "Verification",
    "count_cost",
    "describe_environment",
    "export_files",
    "export_onnx",
    "measure_latency",
    "profile_layers",
    "verify_onnx",
]

_HOMES = {
    "ArmLatency": "latency_report",
    "Cost": "cost",
    "ExportedFile": "onnx_export",
    "Interface": "interface",
    "LatencyError": "latency",
    "LatencyReport": "latency_report",
    "LatencyStatistics": "latency_statistics",
    "LayerTimes": "latency_profile",
    "OnnxModel": "onnx_model",
    "OutputCheck": "verify",
    "Preprocessing": "interface",
    "ProviderError": "session",
    "SpeedUp": "latency_statistics",
    "Verification": "verify",
    "count_cost": "cost",
    "describe_environment": "environment",
    "export_files": "onnx_export",
    "export_onnx": "onnx_export",
    "measure_latency": "latency",
    "profile_layers": "latency_profile",
    "verify_onnx": "verify",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
