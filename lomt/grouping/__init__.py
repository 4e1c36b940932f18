"""Which tasks share a network: affinities between tasks, and groups made of them."""

from lomt.grouping.affinity import Affinity, affinity_of_subsets, relative_distance, subsets_for
from lomt.grouping.cluster import CLUSTERINGS, Grouping, cluster
from lomt.grouping.estimate import Reach, estimate_affinity, lifted
from lomt.grouping.gradient_table import GradientTable, collect_gradients, shared_parameters
from lomt.grouping.groups_file import format_groups, read_groups
from lomt.grouping.heat_map import write_heat_map
from lomt.grouping.linear_fit import FitOptions, fit_subset, linear_losses
from lomt.grouping.lookahead import MEASURES, gradient_cosine, lookahead
from lomt.grouping.projection import PROJECTIONS, Projection, RademacherProjection, SparseProjection

__all__ = [
    "CLUSTERINGS",
    "MEASURES",
    "PROJECTIONS",
    "Affinity",
    "FitOptions",
    "GradientTable",
    "Grouping",
    "Projection",
    "RademacherProjection",
    "Reach",
    "SparseProjection",
    "affinity_of_subsets",
    "cluster",
    "collect_gradients",
    "estimate_affinity",
    "fit_subset",
    "format_groups",
    "gradient_cosine",
    "lifted",
    "linear_losses",
    "lookahead",
    "read_groups",
    "relative_distance",
    "shared_parameters",
    "subsets_for",
    "write_heat_map",
]
