"""Structured-sparsity pruning of multitask vision models."""

from lomt._version import __version__

__all__ = ["__version__"]
