"""Which channels are zero: the group lasso that makes them so, and the report that counts them."""

from lomt.sparsity.group_lasso import METRICS, GroupLasso, Metric
from lomt.sparsity.nested_group_lasso import NestedGroupLasso, nested_soft_threshold
from lomt.sparsity.prox import adam_group_soft_threshold, group_soft_threshold, group_weight
from lomt.sparsity.report import LayerSparsity, PartSparsity, SparsityReport, measure_sparsity
from lomt.sparsity.stopping import StoppingRules, lambda_path

__all__ = [
    "METRICS",
    "GroupLasso",
    "LayerSparsity",
    "Metric",
    "NestedGroupLasso",
    "PartSparsity",
    "SparsityReport",
    "StoppingRules",
    "adam_group_soft_threshold",
    "group_soft_threshold",
    "group_weight",
    "lambda_path",
    "measure_sparsity",
    "nested_soft_threshold",
]
