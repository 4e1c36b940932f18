"""Which tasks share a network: affinities between tasks, and groups made of them."""

from lomt.grouping.affinity import Affinity, affinity_of_subsets, relative_distance, subsets_for
from lomt.grouping.cluster import CLUSTERINGS, LARGEST_FOR_SDP, Grouping, cluster, require_cvxpy
from lomt.grouping.data_maps import (
    MAPPED_KINDS,
    group_data_maps,
    require_true_classes,
    true_class_probability,
)
from lomt.grouping.estimate import Reach, estimate_affinity, lifted
from lomt.grouping.gradient_table import GradientTable, collect_gradients, shared_parameters
from lomt.grouping.groups_file import format_groups, read_groups
from lomt.grouping.heat_map import require_matplotlib, write_heat_map, write_membership_map
from lomt.grouping.linear_fit import FitOptions, fit_subset, linear_losses
from lomt.grouping.lookahead import MEASURES, gradient_cosine, lookahead
from lomt.grouping.membership import Membership, fuzzy_membership
from lomt.grouping.network_selection import LARGEST_FOR_TAG, Selection, select_networks
from lomt.grouping.projection import PROJECTIONS, Projection, RademacherProjection, SparseProjection

__all__ = [
    "CLUSTERINGS",
    "LARGEST_FOR_SDP",
    "LARGEST_FOR_TAG",
    "MAPPED_KINDS",
    "MEASURES",
    "PROJECTIONS",
    "Affinity",
    "FitOptions",
    "GradientTable",
    "Grouping",
    "Membership",
    "Projection",
    "RademacherProjection",
    "Reach",
    "Selection",
    "SparseProjection",
    "affinity_of_subsets",
    "cluster",
    "collect_gradients",
    "estimate_affinity",
    "fit_subset",
    "format_groups",
    "fuzzy_membership",
    "gradient_cosine",
    "group_data_maps",
    "lifted",
    "linear_losses",
    "lookahead",
    "read_groups",
    "relative_distance",
    "require_cvxpy",
    "require_matplotlib",
    "require_true_classes",
    "select_networks",
    "shared_parameters",
    "subsets_for",
    "true_class_probability",
    "write_heat_map",
    "write_membership_map",
]
