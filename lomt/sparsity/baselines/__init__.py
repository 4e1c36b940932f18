"""The methods that ours are compared with, under one interface: which weights or channels each of them keeps."""

from lomt.sparsity.baselines.agreement import LayerAgreement, MaskAgreement, mask_agreement
from lomt.sparsity.baselines.masks import (
    MaskedPart,
    Masks,
    apply_masks,
    check_components,
    check_target,
    prunable_weights,
)
from lomt.sparsity.baselines.methods import (
    BASELINES,
    Baseline,
    iterative_magnitude,
    per_task_scores,
    round_target,
    weight_masks,
)
from lomt.sparsity.baselines.saliency import loss_saliency, magnitudes
from lomt.sparsity.baselines.selection import SCOPES, keep_highest
from lomt.sparsity.baselines.union import entry_fractions, found_kappa, task_masks, union_scores

__all__ = [
    "BASELINES",
    "SCOPES",
    "Baseline",
    "LayerAgreement",
    "MaskAgreement",
    "MaskedPart",
    "Masks",
    "apply_masks",
    "check_components",
    "check_target",
    "entry_fractions",
    "found_kappa",
    "iterative_magnitude",
    "keep_highest",
    "loss_saliency",
    "magnitudes",
    "mask_agreement",
    "per_task_scores",
    "prunable_weights",
    "round_target",
    "task_masks",
    "union_scores",
    "weight_masks",
]
