"""Which channels are zero: what makes them so, what drives it to a target, and the reports that count them."""

from lomt.sparsity.controller import ControlPoint, SparsityController, cubic_ramp
from lomt.sparsity.coupled_groups import CoupledGroups, GroupSet, coupled_groups
from lomt.sparsity.coupled_lasso import CoupledGroupLasso
from lomt.sparsity.group_lasso import GroupLasso
from lomt.sparsity.measures import Measure, macs_share, parameters_share, removable_share
from lomt.sparsity.nested_group_lasso import NestedGroupLasso, nested_soft_threshold
from lomt.sparsity.prox import adam_group_soft_threshold, group_soft_threshold, group_weight
from lomt.sparsity.proximal_penalty import METRICS, Metric, unwrapped
from lomt.sparsity.removal_report import ComponentRemoval, RemovalReport, measure_removable
from lomt.sparsity.report import LayerSparsity, PartSparsity, SparsityReport, measure_sparsity
from lomt.sparsity.soft_threshold import PUBLISHED_LOGIT, SoftThresholds, add_soft_thresholds, soft_threshold
from lomt.sparsity.stopping import StoppingRules, lambda_path
from lomt.sparsity.structured_threshold import (
    GRANULARITIES,
    Granularity,
    GroupThresholds,
    add_group_thresholds,
    bake_thresholds,
    thresholds_of,
)

__all__ = [
    "GRANULARITIES",
    "METRICS",
    "PUBLISHED_LOGIT",
    "ComponentRemoval",
    "ControlPoint",
    "CoupledGroupLasso",
    "CoupledGroups",
    "Granularity",
    "GroupLasso",
    "GroupSet",
    "GroupThresholds",
    "LayerSparsity",
    "Measure",
    "Metric",
    "NestedGroupLasso",
    "PartSparsity",
    "RemovalReport",
    "SoftThresholds",
    "SparsityController",
    "SparsityReport",
    "StoppingRules",
    "adam_group_soft_threshold",
    "add_group_thresholds",
    "add_soft_thresholds",
    "bake_thresholds",
    "coupled_groups",
    "cubic_ramp",
    "group_soft_threshold",
    "group_weight",
    "lambda_path",
    "macs_share",
    "measure_removable",
    "measure_sparsity",
    "nested_soft_threshold",
    "parameters_share",
    "removable_share",
    "soft_threshold",
    "thresholds_of",
    "unwrapped",
]
