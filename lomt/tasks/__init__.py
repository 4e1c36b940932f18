"""What is learned: tasks with their losses and metrics, and the gain over a baseline."""

from lomt.tasks.best_constant import best_constant
from lomt.tasks.delta_m import DeltaM, delta_m
from lomt.tasks.layout import KINDS, TaskKind, TensorLayout
from lomt.tasks.losses import LOSSES, Loss
from lomt.tasks.metric_sum import MetricSum
from lomt.tasks.metrics import MetricInfo, Metrics
from lomt.tasks.task import METRICS, Task, make_task

__all__ = [
    "KINDS",
    "LOSSES",
    "METRICS",
    "DeltaM",
    "Loss",
    "MetricInfo",
    "MetricSum",
    "Metrics",
    "Task",
    "TaskKind",
    "TensorLayout",
    "best_constant",
    "delta_m",
    "make_task",
]
