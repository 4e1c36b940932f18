"""The recipe that tests of the pipeline run."""

from pathlib import Path

__all__ = ["POINTS", "RECIPE"]

RECIPE = Path(__file__).with_name("tiny.yaml")
POINTS = "rewire.branch_points={segmentation: layer3, depth: layer2}"
"""Spares the stages after it the search for layers."""
