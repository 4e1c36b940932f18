"""Where each task leaves the backbone."""

from lomt.branching.branch_points import format_branch_points, read_branch_points
from lomt.branching.evidence import DensityProfile, LayerEvidence, density_profile
from lomt.branching.resolutions import next_finer
from lomt.branching.rewire import copy_matching_weights, rewire
from lomt.branching.rules import RULES, branch_point

__all__ = [
    "RULES",
    "DensityProfile",
    "LayerEvidence",
    "branch_point",
    "copy_matching_weights",
    "density_profile",
    "format_branch_points",
    "next_finer",
    "read_branch_points",
    "rewire",
]
