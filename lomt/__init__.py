"""Structured-sparsity pruning of multitask vision models."""

import importlib
from typing import TYPE_CHECKING, Any

from lomt._version import __version__

if TYPE_CHECKING:
    from lomt.compress.prune import prune
    from lomt.deploy.onnx_export import export_onnx
    from lomt.pruning.storage import load, save

__all__ = ["__version__", "export_onnx", "load", "prune", "save"]

_PLACES = {
    "export_onnx": "lomt.deploy.onnx_export",
    "load": "lomt.pruning.storage",
    "prune": "lomt.compress.prune",
    "save": "lomt.pruning.storage",
}
"""Imported when first used: they need torch, and `import lomt` shall not."""


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)
