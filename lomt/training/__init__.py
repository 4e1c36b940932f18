"""One training loop for every stage."""

from lomt.training.adaptive_sharing import AdaptiveBackbone, ScorePenalty
from lomt.training.affinity_probe import AffinityProbe
from lomt.training.batch_losses import BatchLosses
from lomt.training.distillation import Distillation
from lomt.training.engine import make_accelerator
from lomt.training.evaluate import Evaluation, evaluate
from lomt.training.feature_selection_path import FeatureSelectionPath
from lomt.training.fixed_zeros import FixedZeros
from lomt.training.group_lasso_path import GroupLassoPath
from lomt.training.group_search import GroupNetworks, GroupWeighting, in_group
from lomt.training.interfaces import Loader, Regularizer
from lomt.training.options import OptimizerOptions, ScheduleOptions, TrainingOptions
from lomt.training.partial_update import PartialUpdate, updating_only
from lomt.training.progress import Progress, SilentProgress
from lomt.training.recalibrate import recalibrate_batch_norm
from lomt.training.sample_probe import RunningMoments, SampleProbe
from lomt.training.sparse_to_target import FreeRunningThresholds, SparseToTarget
from lomt.training.trainer import Trainer

__all__ = [
    "AdaptiveBackbone",
    "AffinityProbe",
    "BatchLosses",
    "Distillation",
    "Evaluation",
    "FeatureSelectionPath",
    "FixedZeros",
    "FreeRunningThresholds",
    "GroupLassoPath",
    "GroupNetworks",
    "GroupWeighting",
    "Loader",
    "OptimizerOptions",
    "PartialUpdate",
    "Progress",
    "Regularizer",
    "RunningMoments",
    "SampleProbe",
    "ScheduleOptions",
    "ScorePenalty",
    "SilentProgress",
    "SparseToTarget",
    "Trainer",
    "TrainingOptions",
    "evaluate",
    "in_group",
    "make_accelerator",
    "recalibrate_batch_norm",
    "updating_only",
]
