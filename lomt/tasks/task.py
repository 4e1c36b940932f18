"""A task: its name and kind, its loss and its metrics."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from lomt.errors import UnknownNameError
from lomt.tasks.layout import KINDS, TaskKind, TensorLayout
from lomt.tasks.losses import LOSSES, Loss, LossFactory
from lomt.tasks.metrics import MetricInfo, Metrics
from lomt.tasks.metrics_depth import DepthMetrics
from lomt.tasks.metrics_edges import EdgeMetrics
from lomt.tasks.metrics_labels import ClassificationMetrics, MultilabelMetrics, SegmentationMetrics
from lomt.tasks.metrics_normals import NormalsMetrics
from lomt.tasks.metrics_values import KeypointMetrics, RegressionMetrics

__all__ = ["METRICS", "Task", "make_task"]

METRICS: Mapping[str, type[Metrics]] = {
    "segmentation": SegmentationMetrics,
    "depth": DepthMetrics,
    "normals": NormalsMetrics,
    "edges": EdgeMetrics,
    "keypoints": KeypointMetrics,
    "classification": ClassificationMetrics,
    "multilabel": MultilabelMetrics,
    "regression": RegressionMetrics,
}


@dataclass(frozen=True)
class Task:
    """One thing the model learns.

    Args:
        name: Key of the task in batches, predictions and results.
        kind: What its targets are (see :mod:`lomt.tasks.layout`).
        out_channels: How many outputs its decoder has.
        loss: What training minimises.
        metrics: What evaluation reports; the first is the primary one.
        classes: Names of the outputs; empty if they have none.
    """

    name: str
    kind: TaskKind
    out_channels: int
    loss: Loss
    metrics: Metrics
    classes: tuple[str, ...] = ()

    @property
    def is_dense(self) -> bool:
        """Whether there is one prediction per pixel rather than one per image."""
        return KINDS[self.kind].is_dense

    @property
    def primary_metric(self) -> MetricInfo:
        """The metric by which the task is judged when one number must do."""
        return self.metrics.infos[0]

    def check(self, prediction: Tensor, target: Tensor) -> None:
        """Check shapes, dtypes and label range of a prediction and its target, on any device.

        Raises:
            ValueError: A shape does not fit, or a label is out of range.
            TypeError: A dtype does not fit.
        """
        self.metrics.layout.check(prediction, target)


def make_task(
    name: str,
    kind: str,
    out_channels: int,
    *,
    loss: str | None = None,
    loss_options: Mapping[str, object] | None = None,
    classes: Sequence[str] = (),
) -> Task:
    """Make a task from plain values.

    Args:
        name: Name of the task, without dots.
        kind: One of :data:`lomt.tasks.TaskKind`.
        out_channels: How many outputs the decoder has.
        loss: A name from ``LOSSES[kind]``; its first one if left out.
        loss_options: Options of that loss, for example ``{"label_smoothing": 0.1}``.
        classes: Names of the outputs.

    Raises:
        UnknownNameError: The kind, the loss or an option is unknown.
        ValueError: The name, the number of outputs, of classes, or an option's value does not fit.

    Example:
        >>> task = make_task("depth", "depth", 1, loss="huber", loss_options={"delta": 0.5})
        >>> task.primary_metric.name
        'abs_error'
    """
    if kind not in KINDS:
        raise UnknownNameError("task kind", kind, KINDS)
    _check_name(name)
    _check_channels(name, kind, out_channels, classes)
    layout = TensorLayout(name, kind, out_channels)  # type: ignore[arg-type]  # looked up above
    return Task(
        name=name,
        kind=layout.kind,
        out_channels=out_channels,
        loss=_make_loss(layout, loss, dict(loss_options or {})),
        metrics=METRICS[kind](layout),
        classes=tuple(classes),
    )


def _make_loss(layout: TensorLayout, name: str | None, options: Mapping[str, object]) -> Loss:
    factories = LOSSES[layout.kind]
    name = next(iter(factories)) if name is None else name
    if name not in factories:
        raise UnknownNameError(f"{layout.kind} loss", name, factories)
    factory = factories[name]
    known = _option_names(factory)
    for option in options:
        if option not in known:
            raise UnknownNameError(f"option of the {name} loss", option, known)
    return factory(layout, **options)


def _option_names(factory: LossFactory) -> list[str]:
    return [name for name in inspect.signature(factory).parameters if name != "layout"]


def _check_name(name: str) -> None:
    # A task names a submodule and an ONNX output.
    if not name or "." in name:
        raise ValueError(f"Expected the name of a task to be non-empty and without dots, but got `{name}`.")


def _check_channels(name: str, kind: str, out_channels: int, classes: Sequence[str]) -> None:
    facts = KINDS[kind]
    lowest = 2 if facts.holds_labels else 1
    if facts.channels is not None and out_channels != facts.channels:
        wanted = f"{facts.channels}, as its kind `{kind}` asks for"
    elif out_channels < lowest:
        wanted = f"at least {lowest}"
    elif classes and len(classes) != out_channels:
        wanted = f"{len(classes)}, as many as its `classes`"
    else:
        return
    raise ValueError(f"Expected `out_channels` of task `{name}` to be {wanted}, but got {out_channels}.")
