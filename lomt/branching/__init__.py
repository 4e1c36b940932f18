"""Where each task leaves the backbone."""

from lomt.branching.agreement import layers_apart
from lomt.branching.branch_points import BranchPoint, DecoderInput, format_branch_points, read_branch_points
from lomt.branching.evidence import DensityProfile, LayerEvidence, density_profile, survival_profiles
from lomt.branching.feature_selection import FeatureSelection, SelectionError, SelectionModel
from lomt.branching.layer_costs import LayerCost, cost_factors, layer_costs
from lomt.branching.resolutions import next_finer
from lomt.branching.rewire import copy_matching_weights, rewire
from lomt.branching.rules import RULES, branch_point

__all__ = [
    "RULES",
    "BranchPoint",
    "DecoderInput",
    "DensityProfile",
    "FeatureSelection",
    "LayerCost",
    "LayerEvidence",
    "SelectionError",
    "SelectionModel",
    "branch_point",
    "copy_matching_weights",
    "cost_factors",
    "density_profile",
    "format_branch_points",
    "layer_costs",
    "layers_apart",
    "next_finer",
    "read_branch_points",
    "rewire",
    "survival_profiles",
]
